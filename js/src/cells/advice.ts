/** Decides whether a word of advice is due under a running cell. Pure: takes values and spans in seconds. */

import type { ISession } from '../state';
import { describeAccelerators, holdsGpu } from '../words/accelerators';
import { STARVED_AFTER_S, STARVED_PERCENT } from '../words/executions';
import { formatPercent } from '../words/quantities';
import { formatAge } from '../words/time';

/** A GPU is held and idle while a cell runs here for longer than this, if no setting says otherwise. */
export const IDLE_AFTER_S = 60;

/** About a cell that runs in the notebook's own kernel; null: nothing to say. */
export function adviceForLocalCell(
  session: ISession | null,
  running_s: number,
  after_s = IDLE_AFTER_S
): string | null {
  if (
    session === null ||
    running_s < after_s ||
    session.phase !== 'ready' ||
    session.kernel_state !== 'idle' ||
    !holdsGpu(session)
  ) {
    return null;
  }
  const accelerators = describeAccelerators(session.accelerators) ?? 'The GPU';
  return `${accelerators} is attached and idle while this cell runs here for ${formatAge(running_s)}: begin the cell with %%gpu to use it, or detach and close it to save cost`;
}

/** About a cell that runs on GPUs which were this busy in the last minute; null: nothing to say. */
export function adviceForGpuCell(
  utilisation_percent: number | null,
  running_s: number
): string | null {
  if (
    utilisation_percent === null ||
    running_s < STARVED_AFTER_S ||
    utilisation_percent >= STARVED_PERCENT
  ) {
    return null;
  }
  return `The GPU was only ${formatPercent(utilisation_percent)} busy in the last minute: if the data loader is what it waits for, more of its workers (num_workers), pinned memory or larger batches help`;
}
