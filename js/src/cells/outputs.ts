/** Does with messages what JupyterLab's output area does with those of a cell that runs, without a kernel behind it. */

import type { CodeCell } from '@jupyterlab/cells';
import { JSONExt } from '@lumino/coreutils';

import type { IReplayedOutput } from '../state';

/** What a cell shows. */
export type Outputs = CodeCell['model']['outputs'];
/** As in a notebook's file. */
export type Output = ReturnType<Outputs['toJSON']>[number];

export class OutputFeeder {
  private readonly _displays = new Map<string, number[]>();
  private _clearsNext = false;

  constructor(private readonly outputs: Outputs) {}

  /** Takes the next message. */
  feed({ msg_type, content }: IReplayedOutput): void {
    switch (msg_type) {
      case 'stream':
      case 'display_data':
      case 'execute_result':
      case 'error':
        this._add({ ...content, output_type: msg_type });
        break;
      case 'clear_output':
        this._clearsNext = content['wait'] === true;
        if (!this._clearsNext) {
          this._displays.clear();
        }
        this.outputs.clear(this._clearsNext);
        return;
      case 'update_display_data':
        for (const index of this._displays.get(displayIdOf(content) ?? '') ?? []) {
          this.outputs.set(index, { ...content, output_type: 'display_data' });
        }
        return;
      default:
        return;
    }
    const displayId = displayIdOf(content);
    if (displayId !== null && msg_type === 'display_data') {
      const indices = this._displays.get(displayId) ?? [];
      this._displays.set(displayId, [...indices, this.outputs.length - 1]);
    }
  }

  private _add(output: Output): void {
    if (this._clearsNext) {
      this._clearsNext = false;
      this._displays.clear();
    }
    this.outputs.add(output);
  }
}

/** Whether a cell shows all of these outputs, in this order, and perhaps more. Pure. */
export function shows(shown: readonly Output[], wanted: readonly Output[]): boolean {
  let next = 0;
  return wanted.every(each => {
    while (next < shown.length) {
      const candidate = shown[next++];
      if (candidate !== undefined && includes(candidate, each)) {
        return true;
      }
    }
    return false;
  });
}

function includes(shown: Output, wanted: Output): boolean {
  if (shown.output_type === 'stream' && wanted.output_type === 'stream') {
    return (
      shown['name'] === wanted['name'] && textOf(shown['text']).includes(textOf(wanted['text']))
    );
  }
  return JSONExt.deepEqual(shown, wanted);
}

function textOf(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}

function displayIdOf(content: Record<string, unknown>): string | null {
  const transient = content['transient'] as { display_id?: unknown } | undefined;
  return typeof transient?.display_id === 'string' ? transient.display_id : null;
}
