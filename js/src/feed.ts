/** The page's one connection to the Jupyter server: the newest state, the samples as they come, or what is wrong. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';

import type { IPageState, IProblem, ISample, Message } from './state';

/** The server repeats the state every 15 s (`KEEP_ALIVE_S` in hub.py): three missed, and the connection is dead. */
export const SILENCE_MS = 45_000;
/** What is recorded already and comes first, so that the sparklines are not empty. */
export const HISTORY_S = 60;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;

/** What the page knows. */
export interface IFeedStatus {
  /** The newest state, even if the connection is lost since; null before the first. */
  state: IPageState | null;
  /** Why there is no connection to the Jupyter server now. */
  problem: IProblem | null;
  /** To add to this machine's clock, in seconds, for the time by the server's clock. */
  clockOffset_s: number;
}

/** Samples of one pool, as they came. */
export interface ISampleBatch {
  pool: string;
  samples: readonly ISample[];
}

/**
 * Receives while somebody holds it, and connects again by itself, ever more slowly, after a cut.
 *
 * A page that shows nothing costs the server nothing.
 */
export class Feed implements IDisposable {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  get status(): IFeedStatus {
    return this._status;
  }

  get changed(): ISignal<this, IFeedStatus> {
    return this._changed;
  }

  get sampled(): ISignal<this, ISampleBatch> {
    return this._sampled;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Whether somebody holds it, so that the state is followed. */
  get isRunning(): boolean {
    return this._isRunning;
  }

  /** Whether samples are held back. */
  get isPaused(): boolean {
    return this._isPaused;
  }

  /** Keeps the connection up until the result is disposed of. */
  hold(): IDisposable {
    this._holders++;
    this._start();
    return new DisposableDelegate(() => {
      this._holders--;
      if (this._holders === 0) {
        this._stop();
      }
    });
  }

  /** Has the server send no samples, or send them again. The states go on. */
  setPaused(isPaused: boolean): void {
    if (isPaused !== this._isPaused) {
      this._isPaused = isPaused;
      this._sayWhetherPaused();
      this._changed.emit(this._status);
    }
  }

  /** Connects at once instead of at the end of the wait. Does nothing while there is a connection. */
  reconnect(): void {
    if (this._isRunning && this._status.problem !== null) {
      clearTimeout(this._timer);
      this._drop();
      this._connect();
    }
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._stop();
    this._isDisposed = true;
    Signal.clearData(this);
  }

  private _start(): void {
    if (this._isRunning || this._isDisposed) {
      return;
    }
    this._isRunning = true;
    this._retry_ms = FIRST_RETRY_MS;
    this._connect();
  }

  /** Disconnects, and keeps the newest state. */
  private _stop(): void {
    this._isRunning = false;
    clearTimeout(this._timer);
    this._drop();
  }

  private _connect(): void {
    const { wsUrl, appendToken, token, WebSocket } = this.settings;
    const query = appendToken && token !== '' ? `&token=${encodeURIComponent(token)}` : '';
    const url = URLExt.join(wsUrl, 'nbgpu/api/events');
    const socket = new WebSocket(`${url}?samples_s=${HISTORY_S}${query}`);
    this._socket = socket;
    this._expectWord();
    socket.onopen = () => {
      if (this._isPaused) {
        this._sayWhetherPaused();
      }
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      this._receive(JSON.parse(event.data) as Message);
    };
    socket.onclose = () => {
      this._lose();
    };
  }

  private _sayWhetherPaused(): void {
    if (this._socket?.readyState === 1) {
      this._socket.send(JSON.stringify({ kind: this._isPaused ? 'pause' : 'resume' }));
    }
  }

  private _receive(message: Message): void {
    this._retry_ms = FIRST_RETRY_MS;
    this._attempt++;
    this._expectWord();
    if (message.kind === 'samples') {
      this._sampled.emit({ pool: message.pool, samples: message.samples });
      return;
    }
    const { pools, problem, sent_unix_s } = message;
    const state = { pools, problem, sent_unix_s };
    this._publish({ state, problem: null, clockOffset_s: state.sent_unix_s - Date.now() / 1000 });
  }

  /** Starts the wait for the next word from the server over. */
  private _expectWord(): void {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => {
      this._drop();
      this._lose();
    }, SILENCE_MS);
  }

  private _lose(): void {
    clearTimeout(this._timer);
    this._socket = null;
    const attempt = ++this._attempt;
    void explainLoss(this.settings).then(problem => {
      if (this._isRunning && attempt === this._attempt) {
        this._publish({ ...this._status, problem });
      }
    });
    this._timer = setTimeout(() => {
      this._connect();
    }, this._retry_ms);
    this._retry_ms = Math.min(2 * this._retry_ms, LAST_RETRY_MS);
  }

  private _drop(): void {
    this._attempt++;
    const socket = this._socket;
    this._socket = null;
    if (socket !== null) {
      socket.onopen = null;
      socket.onmessage = null;
      socket.onclose = null;
      socket.close();
    }
  }

  private _publish(status: IFeedStatus): void {
    this._status = status;
    this._changed.emit(status);
  }

  private _status: IFeedStatus = { state: null, problem: null, clockOffset_s: 0 };
  private _changed = new Signal<this, IFeedStatus>(this);
  private _sampled = new Signal<this, ISampleBatch>(this);
  private _socket: WebSocket | null = null;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _retry_ms = FIRST_RETRY_MS;
  /** Raised by every word and every cut, so that an explanation that comes late is recognised. */
  private _attempt = 0;
  private _holders = 0;
  private _isRunning = false;
  private _isPaused = false;
  private _isDisposed = false;
}

/** A WebSocket does not say why it did not open; a plain request does. */
async function explainLoss(settings: ServerConnection.ISettings): Promise<IProblem> {
  let response: Response;
  try {
    const url = URLExt.join(settings.baseUrl, 'nbgpu/api/state?settle_s=0');
    response = await ServerConnection.makeRequest(url, {}, settings);
  } catch {
    return {
      message: 'The Jupyter server does not answer',
      hint: 'see whether it still runs; this page connects again by itself'
    };
  }
  switch (response.status) {
    case 404:
      return {
        message: 'The server part of nbgpu is not enabled',
        hint: 'run `jupyter server extension enable nbgpu.server` and start the Jupyter server again'
      };
    case 401:
    case 403:
      return {
        message: 'The Jupyter server does not accept this page any more',
        hint: 'load the page again and log in'
      };
    default:
      return {
        message: 'The connection to the Jupyter server was cut',
        hint: 'this page connects again by itself'
      };
  }
}
