/** Has a notebook's kernel give its session what changed in the notebook's environment. */

import type { Kernel, KernelMessage } from '@jupyterlab/services';

import { RequestError } from './server';
import type { IProblem } from './state';

/** It waits for the notebook's kernel, or the kernel is at it. */
export type SyncStage = 'waiting' | 'running';

const ATTEMPTS = 5;
const HINT_SEPARATOR = '\n\nhint: ';

export class Syncing {
  private readonly _stages = new Map<string, SyncStage>();

  /** Null: nothing is asked of the session's notebook. */
  stageOf(sessionId: string): SyncStage | null {
    return this._stages.get(sessionId) ?? null;
  }

  /**
   * Asks the kernel, without a trace in its history and variables. `onStep` is called when it begins, and at the end.
   * Rejects with a RequestError if it fails.
   */
  async run(
    kernel: Kernel.IKernelConnection,
    sessionId: string,
    onStep: () => void
  ): Promise<void> {
    if (this._stages.has(sessionId)) {
      return;
    }
    const enter = (stage: SyncStage) => {
      this._stages.set(sessionId, stage);
      onStep();
    };
    enter('waiting');
    try {
      for (let attempt = 1; ; attempt++) {
        const reply = await this._ask(kernel, sessionId, () => {
          enter('running');
        });
        // a cell that fails takes what waits behind it along
        if ((reply.status as string) !== 'aborted' || attempt === ATTEMPTS) {
          check(reply);
          return;
        }
        enter('waiting');
      }
    } finally {
      this._stages.delete(sessionId);
      onStep();
    }
  }

  private async _ask(
    kernel: Kernel.IKernelConnection,
    sessionId: string,
    onBegin: () => void
  ): Promise<KernelMessage.IExecuteReplyMsg['content']> {
    const module = "__import__('nbgpu.page_requests', fromlist=['synchronise'])";
    const future = kernel.requestExecute({
      code: '',
      silent: true,
      store_history: false,
      allow_stdin: false,
      stop_on_error: false,
      user_expressions: { synchronised: `${module}.synchronise(${JSON.stringify(sessionId)})` }
    });
    future.onIOPub = message => {
      const content = message.content as { execution_state?: string };
      if (message.header.msg_type === 'status' && content.execution_state === 'busy') {
        onBegin();
      }
    };
    try {
      return (await future.done).content;
    } catch {
      throw new RequestError(
        problem('the notebook’s kernel ended or restarted before the sync was done'),
        ''
      );
    }
  }
}

function check(reply: KernelMessage.IExecuteReplyMsg['content']): void {
  if (reply.status !== 'ok') {
    throw new RequestError(problem('the notebook’s kernel did not take the sync'), '');
  }
  const result = reply.user_expressions['synchronised'] as
    { status?: string; ename?: string; evalue?: string } | undefined;
  if (result?.status === 'ok') {
    return;
  }
  if (result?.ename === 'KeyboardInterrupt') {
    throw new RequestError(problem('the sync was interrupted'), '');
  }
  const [message = '', hint] = (result?.evalue ?? '').split(HINT_SEPARATOR);
  throw new RequestError(
    problem(message === '' ? (result?.ename ?? 'the sync failed') : message, hint),
    ''
  );
}

function problem(message: string, hint: string | null = null): IProblem {
  return { message, hint };
}
