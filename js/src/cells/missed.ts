/** Finds the cells of executions whose request this page does not know, by their number. Pure. */

import type { IExecution } from '../state';

/** What is known of a cell of the notebook that the executions are of. */
export interface INumberedCell {
  executionCount: number | null;
  usesGpu: boolean;
  /** Since the page was loaded: what ran in it then is known by its request. */
  wasRunHere: boolean;
  /** The execution that its metadata tells of. */
  keptRequestId: string | null;
}

/**
 * Pairs cells with the last of their executions.
 *
 * A number says less than a request: a kernel that is restarted counts from 1 again, and a file has numbers of other
 * days. So executions before a restart are passed over, and so is a cell that does not use GPUs or tells of another
 * execution, and a number that several cells have.
 */
export function matchMissed<T extends INumberedCell>(
  cells: readonly T[],
  executions: readonly IExecution[]
): [T, IExecution][] {
  const kept = new Set(cells.map(({ keptRequestId }) => keptRequestId));
  const pairs: [T, IExecution][] = [];
  let next = Infinity;
  let nextRequestId: string | null = null;
  for (const execution of [...executions].sort((a, b) => b.started_unix_s - a.started_unix_s)) {
    const count = execution.execution_count;
    if (count === null) {
      continue;
    }
    if (execution.request_id === nextRequestId) {
      continue;
    }
    if (count >= next) {
      break;
    }
    next = count;
    nextRequestId = execution.request_id;
    const numbered = cells.filter(({ executionCount }) => executionCount === count);
    const [cell] = numbered;
    if (cell === undefined || numbered.length > 1 || !cell.usesGpu || cell.wasRunHere) {
      continue;
    }
    // its load and cost may come after its end, and change what is kept
    const isFree = cell.keptRequestId === null && !kept.has(execution.request_id);
    if (isFree || cell.keptRequestId === execution.request_id) {
      pairs.push([cell, execution]);
    }
  }
  return pairs;
}
