/** What the Jupyter server sends: mirrors `python/nbgpu/server/views.py`. Null is unknown, or not there. */

export type Link = 'connecting' | 'connected' | 'unreachable';
export type Phase = 'queued' | 'placing' | 'materialising' | 'starting' | 'ready' | 'closed';
export type KernelState = 'starting' | 'idle' | 'executing' | 'dead';

/** Why a session is closed by itself. */
export type ClosingCause = 'idle' | 'lifetime' | 'lease' | 'budget';

export interface INode {
  id: string;
  hostname: string;
  platform: string;
  cpu_count: number;
  memory_bytes: number | null;
  driver_version: string | null;
}

export interface IOffer {
  type: string;
  memory_bytes: number | null;
  total: number;
  free: number;
  queued: number;
  simulated: boolean;
  /** Any number can have it; `total` and `free` mean nothing. */
  shared: boolean;
  node_hostname: string | null;
  /** Of one accelerator; null where the owner set none. */
  price_per_hour: number | null;
  /** Of the price, such as "USD"; null without one. */
  currency: string | null;
}

export interface IAccelerator {
  id: string;
  index: number;
  type: string;
  product_name: string;
  memory_bytes: number | null;
  simulated: boolean;
  shared: boolean;
  session_id: string | null;
  /** The GPU that this MIG slice is cut from; null for a whole GPU. */
  mig_parent_id: string | null;
}

export interface IExecution {
  execution_count: number | null;
  /** The `msg_id` of the notebook's own execute_request. */
  request_id: string;
  started_unix_s: number;
  /** Null while it runs. */
  ended_unix_s: number | null;
  succeeded: boolean | null;
  /** In words: "H100 ×8". */
  accelerators: string;
  simulated: boolean;
  mean_utilisation_percent: number | null;
  peak_memory_bytes: number | null;
  cost: number | null;
  currency: string | null;
}

export interface IKernelExit {
  exit_code: number | null;
  signal: number | null;
  asked_for: boolean;
  /** Of a limit that it exceeded: "at its memory limit of 64 GB". */
  ended_because: string | null;
}

export interface IEnvironment {
  package_count: number | null;
  /** False: the agent's interpreter, or the notebook's own. */
  own: boolean;
  /** While it is built: packages installed so far, of how many, and which comes now. */
  done: number | null;
  total: number | null;
  current: string | null;
}

export interface IPackageChange {
  name: string;
  /** The version that the session has; null: none. */
  before: string | null;
  /** The version that the notebook has; null: none. */
  now: string | null;
}

/** How the notebook's environment differs from what its session was given; nothing: it is in sync. */
export interface IDifference {
  package_count: number;
  /** The first of them, by name. */
  packages: IPackageChange[];
  file_count: number;
  /** The first of them, by path. */
  files: string[];
  /** Names of environment variables that the session is yet to get. */
  variables: string[];
}

export interface ISharedVariable {
  name: string;
  size_bytes: number | null;
}

/** What the session has of the notebook's variables. */
export interface ISharedVariables {
  sent_count: number;
  /** The largest of them. */
  sent: ISharedVariable[];
  /** Of all of them. */
  sent_bytes: number;
  handle_count: number;
  /** The largest of them. */
  handles: ISharedVariable[];
}

export interface ISession {
  id: string;
  /** The notebook's Jupyter kernel id. */
  notebook_id: string | null;
  notebook_name: string | null;
  /** By what the notebook is known again when it has another kernel. */
  notebook_key: string | null;
  /** Its notebook's kernel, or another program that uses it, is connected to it. */
  notebook_connected: boolean;
  spec_text: string;
  phase: Phase | null;
  /** 1 is next; while it is queued. */
  queue_position: number | null;
  queue_length: number | null;
  /** In words, such as "waiting for 4 of 8 H100"; may be empty. */
  detail: string;
  kernel_state: KernelState | null;
  kernel_exit: IKernelExit | null;
  kernel_generation: number;
  python_version: string | null;
  environment: IEnvironment | null;
  /** Null: the notebook has not said. */
  difference: IDifference | null;
  /** Null: the notebook has not said. */
  variables: ISharedVariables | null;
  /** Empty while the session holds none. */
  accelerators: IAccelerator[];
  node_hostname: string | null;
  executing: IExecution | null;
  /** Cells run so far. */
  executions: number;
  /** Those that ended, newest last; not all of them. */
  last_executions: IExecution[];
  /** Seconds times accelerators leased so far, at the state's `sent_unix_s`; it grows, and so does `cost`. */
  accelerator_seconds: number;
  cost: number | null;
  currency: string | null;
  /** Of all its accelerators. */
  cost_per_hour: number | null;
  /** The agent closes the session after so many seconds without work; null: never. */
  idle_close_s: number | null;
  /** Since when it does nothing; null: it works, or is not ready. */
  idle_since_unix_s: number | null;
  /** When it is closed by itself, if nothing changes; null: not foreseen. */
  closes_unix_s: number | null;
  /** From when on its user is to be warned of that. */
  closing_warn_unix_s: number | null;
  closing_cause: ClosingCause | null;
  /** When the lease ends unless it is renewed; null: never. */
  expires_unix_s: number | null;
  /** Since when the notebook uses it; null: no notebook does. */
  attached_unix_s: number | null;
  created_unix_s: number;
  last_active_unix_s: number;
}

export interface IProblem {
  /** One sentence without a full stop. */
  message: string;
  /** What a person can do; commands are in backticks. */
  hint: string | null;
}

/** A session that the page asked for and that is not there yet. */
export interface IRequest {
  request_id: string;
  notebook_id: string | null;
  notebook_name: string | null;
  /** The session that it waits as, or became; null before it is known to the pool. */
  session_id: string | null;
  spec_text: string;
  phase: Phase | null;
  detail: string;
  queue_position: number | null;
  queue_length: number | null;
  /** Why it failed; null while it goes on. */
  problem: IProblem | null;
}

export interface IPool {
  /** "this machine", or as a person called it. */
  name: string;
  /** For display. */
  address: string;
  /** This machine's own agent. */
  embedded: boolean;
  /** Whether a person configured it, and can take it back. */
  removable: boolean;
  /** How the Jupyter server stands with the pool. */
  link: Link;
  /** While connecting: what is happening, in words. */
  progress: string | null;
  /** While unreachable: why. */
  problem: IProblem | null;
  latency_ms: number | null;
  node: INode | null;
  /** These are empty unless the pool is connected. */
  offers: IOffer[];
  accelerators: IAccelerator[];
  sessions: ISession[];
  requests: IRequest[];
}

/** Everything that a page shows but samples. Comes whole after every change, and now and then without one. */
export interface IPageState {
  pools: IPool[];
  /** Why the pools that a person configured cannot be had; null: nothing is wrong. */
  problem: IProblem | null;
  /** By the clock of the Jupyter server. */
  sent_unix_s: number;
}

export interface IXid {
  code: number;
  time_unix_s: number;
  /** Empty: unknown. */
  meaning: string;
}

export interface IProcess {
  pid: number;
  session_id: string | null;
  memory_bytes: number | null;
  name: string | null;
  /** Of another user's session: only the memory is known. */
  other_user: boolean;
}

/** One timed reading of one accelerator. */
export interface ISample {
  accelerator_id: string;
  time_unix_s: number;
  simulated: boolean;
  utilisation_percent: number | null;
  memory_used_bytes: number | null;
  memory_total_bytes: number | null;
  power_watts: number | null;
  power_limit_watts: number | null;
  temperature_celsius: number | null;
  sm_clock_mhz: number | null;
  memory_clock_mhz: number | null;
  pcie_tx_bytes_per_s: number | null;
  pcie_rx_bytes_per_s: number | null;
  nvlink_tx_bytes_per_s: number | null;
  nvlink_rx_bytes_per_s: number | null;
  /** In words: "thermal limit". */
  throttle_reasons: string[];
  ecc_errors_corrected: number | null;
  ecc_errors_uncorrected: number | null;
  /** The last XID: NVIDIA's number for what the driver reported. */
  xid: IXid | null;
  session_id: string | null;
  processes: IProcess[];
}

/** What comes over the WebSocket. */
export type Message =
  ({ kind: 'state' } & IPageState) | { kind: 'samples'; pool: string; samples: ISample[] };

/** A message of the Jupyter protocol, as an output area takes it. */
export interface IReplayedOutput {
  msg_type: string;
  content: Record<string, unknown>;
}

/** A piece of what one cell's last execution put out, in order, from its beginning on. */
export interface IReplayMessage {
  kind: 'outputs';
  cell_id: string;
  /** The `msg_id` of the execute_request. */
  request_id: string;
  execution_count: number | null;
  outputs: IReplayedOutput[];
  /** How many messages of its session from its time the agent does not hold any more. */
  dropped: number;
  /** What comes after this is new. */
  caught_up: boolean;
  /** Nothing comes after this. */
  over: boolean;
}

/** The answer to a trial of an address. */
export interface IPoolTrial {
  ok: boolean;
  message: string;
  hint: string | null;
  latency_ms: number | null;
  node: INode | null;
}

/** A notebook that is open in this page. */
export interface INotebook {
  name: string;
  /** Null: it has no kernel, or none yet. */
  kernelId: string | null;
}
