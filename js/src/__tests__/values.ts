/** Values that the tests vary, and a page without a server. */

import type { ServerConnection } from '@jupyterlab/services';
import { ServerConnection as Connection } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import { Actions } from '../actions';
import { Feed, type IFeedStatus } from '../feed';
import { History } from '../history';
import type { NotebookInFront } from '../notebook';
import { Page } from '../page';
import { Server } from '../server';
import { Settings } from '../settings';
import type {
  IAccelerator,
  IExecution,
  INotebook,
  IOffer,
  IPageState,
  IPool,
  IRequest,
  ISample,
  ISession
} from '../state';

export const NOW_S = 1_000_000;
export const GIB = 2 ** 30;
export const NOTEBOOK: INotebook & { kernelId: string } = {
  name: 'digits.ipynb',
  kernelId: 'kernel-1'
};

export function accelerator(fields: Partial<IAccelerator> = {}): IAccelerator {
  return {
    id: 'gpu-0',
    index: 0,
    type: 'H100',
    product_name: 'NVIDIA H100 80GB HBM3',
    memory_bytes: 80e9,
    simulated: false,
    shared: false,
    session_id: null,
    mig_parent_id: null,
    ...fields
  };
}

export function offer(fields: Partial<IOffer> = {}): IOffer {
  return {
    type: 'H100',
    memory_bytes: 80e9,
    total: 8,
    free: 8,
    queued: 0,
    simulated: false,
    shared: false,
    node_hostname: 'lab-1',
    price_per_hour: null,
    currency: 'USD',
    ...fields
  };
}

export function execution(fields: Partial<IExecution> = {}): IExecution {
  return {
    execution_count: 7,
    request_id: 'request-7',
    started_unix_s: NOW_S - 92,
    ended_unix_s: null,
    succeeded: null,
    accelerators: 'H100 ×8',
    simulated: false,
    mean_utilisation_percent: null,
    peak_memory_bytes: null,
    cost: null,
    currency: null,
    ...fields
  };
}

export function session(fields: Partial<ISession> = {}): ISession {
  return {
    id: 's1',
    notebook_id: 'kernel-1',
    notebook_name: 'digits.ipynb',
    notebook_key: null,
    notebook_connected: true,
    spec_text: 'H100',
    phase: 'ready',
    queue_position: null,
    queue_length: null,
    detail: '',
    kernel_state: 'idle',
    kernel_exit: null,
    kernel_generation: 1,
    python_version: '3.11.2',
    environment: null,
    difference: null,
    variables: null,
    accelerators: [accelerator()],
    node_hostname: 'lab-1',
    executing: null,
    executions: 0,
    last_executions: [],
    accelerator_seconds: 0,
    cost: null,
    cost_per_hour: null,
    currency: null,
    idle_close_s: null,
    idle_since_unix_s: null,
    closes_unix_s: null,
    closing_warn_unix_s: null,
    closing_cause: null,
    expires_unix_s: null,
    attached_unix_s: NOW_S - 100,
    created_unix_s: NOW_S - 100,
    last_active_unix_s: NOW_S,
    ...fields
  };
}

export function request(fields: Partial<IRequest> = {}): IRequest {
  return {
    request_id: 'r1',
    notebook_id: 'kernel-1',
    notebook_name: 'digits.ipynb',
    session_id: null,
    spec_text: 'H100x8',
    phase: 'queued',
    detail: '',
    queue_position: null,
    queue_length: null,
    problem: null,
    ...fields
  };
}

export function pool(fields: Partial<IPool> = {}): IPool {
  return {
    name: 'this machine',
    address: 'unix:agent.sock',
    embedded: true,
    removable: false,
    link: 'connected',
    progress: null,
    problem: null,
    latency_ms: 0.42,
    node: null,
    offers: [offer()],
    accelerators: [],
    sessions: [],
    requests: [],
    ...fields
  };
}

export function pageState(fields: Partial<IPageState> = {}): IPageState {
  return { pools: [pool()], problem: null, sent_unix_s: NOW_S, ...fields };
}

export function sample(fields: Partial<ISample> = {}): ISample {
  return {
    accelerator_id: 'gpu-0',
    time_unix_s: NOW_S,
    simulated: false,
    utilisation_percent: 94,
    memory_used_bytes: 61 * GIB,
    memory_total_bytes: 80 * GIB,
    power_watts: 642,
    power_limit_watts: 700,
    temperature_celsius: 66,
    sm_clock_mhz: 1980,
    memory_clock_mhz: 2619,
    pcie_tx_bytes_per_s: 1.2e9,
    pcie_rx_bytes_per_s: 35e3,
    nvlink_tx_bytes_per_s: null,
    nvlink_rx_bytes_per_s: null,
    throttle_reasons: [],
    ecc_errors_corrected: 0,
    ecc_errors_uncorrected: 0,
    xid: null,
    session_id: null,
    processes: [],
    ...fields
  };
}

/** What the page asked the server for. */
export interface IAsked {
  method: string;
  /** Below `nbgpu/api/`. */
  path: string;
  body: unknown;
}

/** The settings of a connection whose requests are answered here, and what was asked so far. */
export function fakeConnection(answer: (asked: IAsked) => Response | Promise<Response>): {
  settings: ServerConnection.ISettings;
  asked: IAsked[];
} {
  const asked: IAsked[] = [];
  const settings = Connection.makeSettings({
    baseUrl: 'http://jupyter/base/',
    wsUrl: 'ws://jupyter/base/',
    token: 'secret',
    fetch: async (info: RequestInfo) => {
      const sent = info as Request;
      const text = await sent.text();
      const one = {
        method: sent.method,
        path: sent.url.replace('http://jupyter/base/nbgpu/api/', '').replace(/[?&]\d+$/, ''),
        body: text === '' ? null : (JSON.parse(text) as unknown)
      };
      asked.push(one);
      return answer(one);
    }
  });
  return { settings, asked };
}

/** The feed of a page that a test gives the state. */
class StillFeed extends Feed {
  constructor(
    settings: ServerConnection.ISettings,
    private readonly _still: IFeedStatus
  ) {
    super(settings);
  }

  override get status(): IFeedStatus {
    return this._still;
  }

  override get isRunning(): boolean {
    return true;
  }
}

/** A whole page from values; `asked` is what it asked the server for. */
export function makePage(
  status: Partial<IFeedStatus> = {},
  notebook: INotebook | null = NOTEBOOK,
  answer: (asked: IAsked) => Response | Promise<Response> = () => new Response('{}')
): { page: Page; asked: IAsked[] } {
  const { settings, asked } = fakeConnection(answer);
  const whole: IFeedStatus = { state: pageState(), problem: null, clockOffset_s: 0, ...status };
  const feed = new StillFeed(settings, whole);
  const server = new Server(settings);
  const inFront = {
    current: notebook,
    panel: notebook === null ? null : { context: { path: `deep/${notebook.name}` } },
    changed: new Signal<object, null>({})
  } as unknown as NotebookInFront;
  const actions = new Actions(server, feed, inFront, () => Promise.resolve(false));
  return { page: new Page(feed, server, new History(), inFront, actions, new Settings()), asked };
}
