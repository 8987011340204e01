/** Finds things in the state: a notebook's session and request, a session's accelerators, which GPUs there are. */

import type { History } from './history';
import type {
  IAccelerator,
  INotebook,
  IOffer,
  IPageState,
  IPool,
  IRequest,
  ISession
} from './state';
import type { ILoad } from './words/executions';

export interface IFoundSession {
  pool: IPool;
  session: ISession;
}

export interface IFoundRequest {
  pool: IPool;
  request: IRequest;
}

/** One row of GPUs, or one GPU with the MIG slices that it is cut into. */
export interface IGpu {
  pool: IPool;
  /** Null: only its slices can be leased, and it is not in the list itself. */
  accelerator: IAccelerator | null;
  slices: readonly IAccelerator[];
}

/** The session of the notebook with this kernel, see `sessionsOf`. */
export function sessionOf(
  state: IPageState | null,
  kernelId: string | null
): IFoundSession | undefined {
  return sessionsOf(state, kernelId)[0];
}

/**
 * All sessions of the notebook with this kernel: first the one that it uses, which is the one that it was attached
 * to last, and behind it those that only open.
 */
export function sessionsOf(state: IPageState | null, kernelId: string | null): IFoundSession[] {
  if (state === null || kernelId === null) {
    return [];
  }
  const rank = ({ phase }: ISession) => (phase === 'ready' ? 0 : 1);
  return allSessions(state)
    .filter(({ session }) => session.notebook_id === kernelId && session.phase !== 'closed')
    .sort(
      (a, b) => rank(a.session) - rank(b.session) || attachedAt(b.session) - attachedAt(a.session)
    );
}

function attachedAt(session: ISession): number {
  return session.attached_unix_s ?? session.created_unix_s;
}

/** What the notebook with this kernel waits for: requests under way, and those that failed. */
export function requestsOf(state: IPageState | null, kernelId: string | null): IFoundRequest[] {
  if (state === null || kernelId === null) {
    return [];
  }
  return state.pools.flatMap(pool =>
    pool.requests
      .filter(request => request.notebook_id === kernelId)
      .map(request => ({ pool, request }))
  );
}

export function allSessions(state: IPageState): IFoundSession[] {
  return state.pools.flatMap(pool => pool.sessions.map(session => ({ pool, session })));
}

/** All GPUs, slices with the GPU that they are of; the CPU only where a pool has nothing else. */
export function gpusOf(pool: IPool): IGpu[] {
  const devices = pool.accelerators.filter(accelerator => !accelerator.shared);
  const listed = devices.length === 0 ? pool.accelerators : devices;
  const slices = new Map<string, IAccelerator[]>();
  for (const accelerator of listed) {
    if (accelerator.mig_parent_id !== null) {
      const list = slices.get(accelerator.mig_parent_id) ?? [];
      list.push(accelerator);
      slices.set(accelerator.mig_parent_id, list);
    }
  }
  const gpus: IGpu[] = [];
  for (const accelerator of listed) {
    if (accelerator.mig_parent_id === null) {
      gpus.push({ pool, accelerator, slices: slices.get(accelerator.id) ?? [] });
      slices.delete(accelerator.id);
    }
  }
  for (const orphans of slices.values()) {
    gpus.push({ pool, accelerator: null, slices: orphans });
  }
  return gpus;
}

/** Names an accelerator or offer unmistakably among all pools. */
export function offerKey(pool: IPool, offer: IOffer): string {
  const { node_hostname, type, memory_bytes, simulated } = offer;
  return JSON.stringify([pool.name, node_hostname, type, memory_bytes, simulated]);
}

/** The load of a session's accelerators now, taken together; of a share of the CPU too. */
export function loadOf(found: IFoundSession, history: History): ILoad {
  const latest = found.session.accelerators.map(
    ({ id }) => history.track(found.pool.name, id)?.latest ?? null
  );
  return {
    utilisation_percent: mean(latest.map(sample => sample?.utilisation_percent ?? null)),
    memory_used_bytes: sum(latest.map(sample => sample?.memory_used_bytes ?? null)),
    memory_total_bytes: sum(latest.map(sample => sample?.memory_total_bytes ?? null))
  };
}

/** How busy the session's accelerators were in the last `span_s` seconds; null where that much is not known. */
export function recentUtilisation(
  found: IFoundSession,
  history: History,
  span_s: number
): number | null {
  return mean(
    found.session.accelerators.map(({ id }) => {
      const track = history.track(found.pool.name, id);
      const latest_unix_s = track?.latest?.time_unix_s;
      const first_unix_s = track?.first_unix_s;
      if (track === undefined || latest_unix_s === undefined || first_unix_s == null) {
        return null;
      }
      const from_unix_s = latest_unix_s - span_s;
      return first_unix_s > from_unix_s + 5 ? null : track.mean('utilisation_percent', from_unix_s);
    })
  );
}

/** Whether the notebook has a kernel, so that it can have a session. */
export function hasKernel(
  notebook: INotebook | null
): notebook is INotebook & { kernelId: string } {
  return notebook !== null && notebook.kernelId !== null;
}

function mean(values: readonly (number | null)[]): number | null {
  const known = values.filter(value => value !== null);
  return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length;
}

/** Null where one is unknown: part of a sum would mislead. */
function sum(values: readonly (number | null)[]): number | null {
  let total = 0;
  for (const value of values) {
    if (value === null) {
      return null;
    }
    total += value;
  }
  return values.length === 0 ? null : total;
}
