/** What the page asks the Jupyter server to do, one method a request; `nbgpu/api/openapi.json` describes them. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import type { INotebook, IPoolTrial, IProblem, ISample } from './state';

/** Thrown when the server refuses or cannot: carries what a person reads. */
export class RequestError extends Error {
  constructor(
    readonly problem: IProblem,
    /** Stable, for programs; empty where nobody answered. */
    readonly reason: string
  ) {
    super(problem.message);
    this.name = 'RequestError';
  }
}

/** What a person says about a pool. */
export interface IPoolAddress {
  name: string;
  /** Or the whole line that `nbgpu agent invite` prints. */
  address: string;
  token: string;
  /** Of the agent's certificate, for an agent on a network. */
  pin: string;
  /** That the agent exchanges for a token; for an agent on a network. */
  code: string;
}

/** Which session is asked for. */
export interface IWish {
  /** Null: the first pool that could grant it. */
  pool: string | null;
  /** "H100x8". */
  spec: string;
  notebook: INotebook & { kernelId: string };
  /** The folder of the notebook's file, relative to the root of the Jupyter server. */
  workingFolder: string | null;
  /** Even if the notebook has a session already. */
  isNew: boolean;
}

/** The server's REST interface. Every method throws RequestError. */
export class Server {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  /** Asks for a session and returns the request's id at once; what becomes of it is in the state. */
  async openSession(wish: IWish): Promise<string> {
    const answer = await this._request<{ request_id: string }>('POST', 'sessions', {
      pool: wish.pool,
      spec: wish.spec,
      notebook_id: wish.notebook.kernelId,
      notebook_name: wish.notebook.name,
      python: null,
      working_folder: wish.workingFolder,
      new: wish.isNew
    });
    return answer.request_id;
  }

  /** Withdraws a request that waits, or takes note of one that failed. */
  async withdraw(requestId: string): Promise<void> {
    await this._request('DELETE', `requests/${encodeURIComponent(requestId)}`);
  }

  /** Makes the session that notebook's. */
  async attach(sessionId: string, notebook: INotebook & { kernelId: string }): Promise<void> {
    await this._post(sessionId, 'attach', {
      notebook_id: notebook.kernelId,
      notebook_name: notebook.name
    });
  }

  /** Makes the session no notebook's; it goes on. */
  async detach(sessionId: string): Promise<void> {
    await this._post(sessionId, 'detach');
  }

  /** Has the session stay, though it does nothing. */
  async keep(sessionId: string): Promise<void> {
    await this._post(sessionId, 'renew');
  }

  async interrupt(sessionId: string): Promise<void> {
    await this._post(sessionId, 'interrupt');
  }

  async restart(sessionId: string): Promise<void> {
    await this._post(sessionId, 'restart');
  }

  async close(sessionId: string): Promise<void> {
    await this._request('DELETE', `sessions/${encodeURIComponent(sessionId)}`);
  }

  /** What the session's kernel wrote outside of cells. */
  async logs(sessionId: string): Promise<string> {
    const path = `sessions/${encodeURIComponent(sessionId)}/logs`;
    return (await this._request<{ text: string }>('GET', path)).text;
  }

  /** Where the session's code is now: the stacks of its kernel and of its ranks, as text. */
  async stacks(sessionId: string): Promise<string> {
    const path = `sessions/${encodeURIComponent(sessionId)}/stacks`;
    return (await this._request<{ text: string }>('GET', path)).text;
  }

  /** Opens the connection that brings what the cells of a notebook lack, which the page is to tell it first. */
  openReplay(kernelId: string): WebSocket {
    const { wsUrl, appendToken, token, WebSocket } = this.settings;
    const query = appendToken && token !== '' ? `?token=${encodeURIComponent(token)}` : '';
    const path = `nbgpu/api/notebooks/${encodeURIComponent(kernelId)}/replay`;
    return new WebSocket(`${URLExt.join(wsUrl, path)}${query}`);
  }

  /** Notes that the notebook's file has what these cells have put out until now, or that nobody wants it. */
  async noteSaved(kernelId: string, cellIds: readonly string[]): Promise<void> {
    const path = `notebooks/${encodeURIComponent(kernelId)}/saved`;
    await this._request('POST', path, { cell_ids: cellIds });
  }

  /** Has the server connect to a pool at once; null: to all. */
  async retry(pool: string | null): Promise<void> {
    await this._request('POST', 'retry', { pool });
  }

  /** The recorded samples of the last `history_s` seconds, thinned to one in `step_s` seconds where it can. */
  async samples(history_s: number, step_s: number, pool: string): Promise<ISample[]> {
    const query = URLExt.objectToQueryString({
      history_s: String(Math.ceil(history_s)),
      step_s: String(step_s),
      pool
    });
    return (await this._request<{ samples: ISample[] }>('GET', `samples${query}`)).samples;
  }

  async addPool(pool: IPoolAddress): Promise<void> {
    await this._request('POST', 'pools', { ...pool });
  }

  /** Tries an address without keeping it. A pool that cannot be reached is an answer, not an error. */
  async testPool(pool: IPoolAddress): Promise<IPoolTrial> {
    return this._request<IPoolTrial>('POST', 'pools/test', { ...pool });
  }

  async removePool(name: string): Promise<void> {
    await this._request('DELETE', `pools/${encodeURIComponent(name)}`);
  }

  private async _post(sessionId: string, verb: string, body: object = {}): Promise<void> {
    await this._request('POST', `sessions/${encodeURIComponent(sessionId)}/${verb}`, body);
  }

  private async _request<T>(method: string, path: string, body?: object): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, 'nbgpu/api/', path);
    const init: RequestInit = { method, cache: 'no-store' };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
    }
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch {
      throw new RequestError(
        {
          message: 'The Jupyter server does not answer',
          hint: 'see whether it still runs, and try again'
        },
        ''
      );
    }
    const text = await response.text();
    if (!response.ok) {
      throw refusal(response.status, text);
    }
    return (text === '' ? {} : JSON.parse(text)) as T;
  }
}

function refusal(status: number, text: string): RequestError {
  let fields: Record<string, unknown> = {};
  try {
    fields = JSON.parse(text) as Record<string, unknown>;
  } catch {
    // a proxy's page, not the server's answer
  }
  const { message, hint, reason } = fields;
  return new RequestError(
    {
      message:
        typeof message === 'string' && message !== ''
          ? message
          : `The Jupyter server answered with status ${status}`,
      hint: typeof hint === 'string' && hint !== '' ? hint : null
    },
    typeof reason === 'string' ? reason : ''
  );
}
