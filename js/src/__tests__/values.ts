/** Values that the tests vary. */

import type { IAccelerator, IOffer, IPageState, IPool, ISession } from '../state';

export const NOW_S = 1_000_000;

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
    ...fields
  };
}

export function session(fields: Partial<ISession> = {}): ISession {
  return {
    id: 's1',
    notebook_id: 'kernel-1',
    notebook_name: 'digits.ipynb',
    spec_text: 'H100',
    phase: 'ready',
    kernel_state: 'idle',
    kernel_exit: null,
    accelerators: [accelerator()],
    node_hostname: 'lab-1',
    executing: null,
    created_unix_s: NOW_S - 100,
    last_active_unix_s: NOW_S,
    ...fields
  };
}

export function pool(fields: Partial<IPool> = {}): IPool {
  return { node: null, offers: [offer()], accelerators: [], sessions: [], ...fields };
}

export function pageState(fields: Partial<IPageState> = {}): IPageState {
  return {
    link: 'connected',
    progress: null,
    problem: null,
    pool: pool(),
    sent_unix_s: NOW_S,
    ...fields
  };
}
