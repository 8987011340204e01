/** What the Jupyter server sends: mirrors `python/nbgpu/server/views.py`. Null is unknown, or not there. */

export type Phase = 'queued' | 'placing' | 'materialising' | 'starting' | 'ready' | 'closed';
export type KernelState = 'starting' | 'idle' | 'executing' | 'dead';

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
}

export interface IExecution {
  execution_count: number | null;
  started_unix_s: number;
}

export interface IKernelExit {
  exit_code: number | null;
  signal: number | null;
  asked_for: boolean;
}

export interface ISession {
  id: string;
  /** The notebook's Jupyter kernel id. */
  notebook_id: string | null;
  notebook_name: string | null;
  spec_text: string;
  phase: Phase | null;
  kernel_state: KernelState | null;
  kernel_exit: IKernelExit | null;
  /** Empty while the session holds none. */
  accelerators: IAccelerator[];
  node_hostname: string | null;
  executing: IExecution | null;
  created_unix_s: number;
  last_active_unix_s: number;
}

export interface IPool {
  node: INode | null;
  offers: IOffer[];
  accelerators: IAccelerator[];
  sessions: ISession[];
}

export interface IProblem {
  /** One sentence without a full stop. */
  message: string;
  /** What a person can do; commands are in backticks. */
  hint: string | null;
}

/** Everything that a page shows. Comes whole after every change, and now and then without one. */
export interface IPageState {
  /** How the Jupyter server stands with the pool. */
  link: 'connecting' | 'connected' | 'unreachable';
  /** While connecting: what is happening, in words. */
  progress: string | null;
  /** While unreachable: why. */
  problem: IProblem | null;
  /** While connected. */
  pool: IPool | null;
  /** By the clock of the Jupyter server. */
  sent_unix_s: number;
}

/** The notebook in front. */
export interface INotebook {
  name: string;
  /** Null: it has no kernel, or none yet. */
  kernelId: string | null;
}
