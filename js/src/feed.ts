/** The page's one connection to the Jupyter server: the newest state, or what is wrong. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';

import type { IPageState, IProblem } from './state';

/** The server repeats the state every 15 s (`KEEP_ALIVE_S` in hub.py): three missed, and the connection is dead. */
export const SILENCE_MS = 45_000;
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

/**
 * Receives the state while it is running, and connects again by itself, ever more slowly, after a cut.
 *
 * Starts stopped: a page that shows nothing costs the server nothing.
 */
export class Feed implements IDisposable {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  get status(): IFeedStatus {
    return this._status;
  }

  get changed(): ISignal<this, IFeedStatus> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** Connects. Idempotent. */
  start(): void {
    if (this._running || this._isDisposed) {
      return;
    }
    this._running = true;
    this._retry_ms = FIRST_RETRY_MS;
    this._connect();
  }

  /** Disconnects, and keeps the newest state. Idempotent. */
  stop(): void {
    this._running = false;
    clearTimeout(this._timer);
    this._drop();
  }

  /** Connects at once instead of at the end of the wait, and has the server do the same with the pool. */
  async retry(): Promise<void> {
    if (this._status.problem !== null) {
      if (this._running) {
        clearTimeout(this._timer);
        this._drop();
        this._connect();
      }
      return;
    }
    const url = URLExt.join(this.settings.baseUrl, 'nbgpu/api/retry');
    try {
      await ServerConnection.makeRequest(url, { method: 'POST' }, this.settings);
    } catch {
      // the server is gone, and the cut of the WebSocket says so
    }
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this.stop();
    this._isDisposed = true;
    Signal.clearData(this);
  }

  private _connect(): void {
    const { wsUrl, appendToken, token, WebSocket } = this.settings;
    const query = appendToken && token !== '' ? `?token=${encodeURIComponent(token)}` : '';
    const socket = new WebSocket(URLExt.join(wsUrl, 'nbgpu/api/events') + query);
    this._socket = socket;
    this._expectWord();
    socket.onmessage = (event: MessageEvent<string>) => {
      this._receive(JSON.parse(event.data) as IPageState);
    };
    socket.onclose = () => {
      this._lose();
    };
  }

  private _receive(state: IPageState): void {
    this._retry_ms = FIRST_RETRY_MS;
    this._attempt++;
    this._expectWord();
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
      if (this._running && attempt === this._attempt) {
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
  private _socket: WebSocket | null = null;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _retry_ms = FIRST_RETRY_MS;
  /** Raised by every word and every cut, so that an explanation that comes late is recognised. */
  private _attempt = 0;
  private _running = false;
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
