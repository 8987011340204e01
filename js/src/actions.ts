/** What a person can do to sessions and requests: the question before, the command, and what is said if it fails. */

import { PathExt } from '@jupyterlab/coreutils';
import { Signal, type ISignal } from '@lumino/signaling';

import { askAboutOld, confirmClose, confirmRestart, showStacks, showText } from './dialogs';
import type { Feed } from './feed';
import { hasKernel, sessionOf } from './lookup';
import type { NotebookInFront } from './notebook';
import { RequestError, type Server } from './server';
import type { IPool, IProblem, ISession } from './state';
import { Syncing } from './syncing';
import { nameOf } from './words/sessions';

/** Opens the notebook whose kernel this is; false: it is nowhere to be found. */
export type OpenNotebook = (kernelId: string) => Promise<boolean>;

export class Actions {
  private _problem: IProblem | null = null;
  private _problemChanged = new Signal<this, IProblem | null>(this);
  private _pending = 0;
  readonly syncing = new Syncing();

  constructor(
    private readonly server: Server,
    private readonly feed: Feed,
    private readonly notebook: NotebookInFront,
    private readonly openNotebookOf: OpenNotebook
  ) {}

  /** Why the last command failed; null once it was taken note of, or another one succeeded. */
  get problem(): IProblem | null {
    return this._problem;
  }

  /** Emits also when a command begins and ends, see `isBusy`. */
  get problemChanged(): ISignal<this, IProblem | null> {
    return this._problemChanged;
  }

  /** Whether an answer is awaited. */
  get isBusy(): boolean {
    return this._pending > 0;
  }

  dismissProblem(): void {
    this._setProblem(null);
  }

  /** Asks for a session for the notebook in front. Null as pool: the first that could grant it. */
  async open(pool: string | null, spec: string): Promise<void> {
    const notebook = this.notebook.current;
    const panel = this.notebook.panel;
    if (!hasKernel(notebook) || panel === null) {
      return;
    }
    const old = sessionOf(this.feed.status.state, notebook.kernelId)?.session;
    const fate = old === undefined ? 'keep' : await askAboutOld(old, spec);
    if (fate === null) {
      return;
    }
    await this._do(async () => {
      if (old !== undefined && fate === 'close') {
        await this.server.close(old.id);
      }
      await this.server.openSession({
        pool,
        spec,
        notebook,
        workingFolder: PathExt.dirname(panel.context.path),
        isNew: old !== undefined
      });
    });
  }

  /** Makes a session that is open the one of the notebook in front. */
  async attach(session: ISession): Promise<void> {
    const notebook = this.notebook.current;
    if (hasKernel(notebook)) {
      await this._do(() => this.server.attach(session.id, notebook));
    }
  }

  async detach(session: ISession): Promise<void> {
    await this._do(() => this.server.detach(session.id));
  }

  /** Puts off that a session is closed because it does nothing. */
  async keep(session: ISession): Promise<void> {
    await this._do(() => this.server.keep(session.id));
  }

  /** Has the kernel of the notebook in front give its session what changed; waits for what the kernel is at. */
  async sync(session: ISession): Promise<void> {
    const kernel = this.notebook.panel?.sessionContext.session?.kernel ?? null;
    if (kernel === null || kernel.id !== session.notebook_id) {
      return;
    }
    this._setProblem(null);
    try {
      await this.syncing.run(kernel, session.id, () => {
        this._problemChanged.emit(this._problem);
      });
    } catch (error) {
      if (!(error instanceof RequestError)) {
        throw error;
      }
      this._setProblem(error.problem);
    }
  }

  async interrupt(session: ISession): Promise<void> {
    await this._do(() => this.server.interrupt(session.id));
  }

  async restart(session: ISession): Promise<void> {
    if (session.executions === 0 || (await confirmRestart(session))) {
      await this._do(() => this.server.restart(session.id));
    }
  }

  /** Closes a session, after a question if it has run something. */
  async close(session: ISession): Promise<void> {
    const isLossless = session.executions === 0 && session.kernel_state !== 'executing';
    if (isLossless || (await confirmClose(session))) {
      await this._do(() => this.server.close(session.id));
    }
  }

  async showLogs(session: ISession): Promise<void> {
    const text = await this._do(() => this.server.logs(session.id));
    if (text !== undefined) {
      const nothing = 'The kernel wrote nothing outside of cells.';
      await showText(`Logs of the session of ${nameOf(session)}`, text === '' ? nothing : text);
    }
  }

  /** Shows where the session's code is, and again for as long as the person wants to look. */
  async showStacks(session: ISession): Promise<void> {
    let isWanted = true;
    while (isWanted) {
      const text = await this._do(() => this.server.stacks(session.id));
      isWanted =
        text !== undefined &&
        (await showStacks(`Stacks of the session of ${nameOf(session)}`, text));
    }
  }

  async openNotebook(session: ISession): Promise<void> {
    const kernelId = session.notebook_id;
    await this._do(async () => {
      if (kernelId === null || !(await this.openNotebookOf(kernelId))) {
        throw new RequestError(
          {
            message: `${nameOf(session)} cannot be found: its kernel does not run on this Jupyter server`,
            hint: 'open the notebook that you want, and attach it to the session here'
          },
          ''
        );
      }
    });
  }

  async withdraw(requestId: string): Promise<void> {
    await this._do(() => this.server.withdraw(requestId));
  }

  /** Connects at once to what could not be reached: the Jupyter server itself, or a pool. */
  async retry(pool: IPool | null): Promise<void> {
    if (this.feed.status.problem !== null) {
      this.feed.reconnect();
    } else {
      await this._do(() => this.server.retry(pool?.name ?? null));
    }
  }

  async removePool(pool: IPool): Promise<void> {
    await this._do(() => this.server.removePool(pool.name));
  }

  /** Undefined where it failed. */
  private async _do<T>(command: () => Promise<T>): Promise<T | undefined> {
    this._pending++;
    this._setProblem(null);
    try {
      return await command();
    } catch (error) {
      if (!(error instanceof RequestError)) {
        throw error;
      }
      this._setProblem(error.problem);
      return undefined;
    } finally {
      this._pending--;
      this._problemChanged.emit(this._problem);
    }
  }

  private _setProblem(problem: IProblem | null): void {
    this._problem = problem;
    this._problemChanged.emit(problem);
  }
}
