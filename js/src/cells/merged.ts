/** Takes the executions that one run of a cell made in its session together, as a `@distributed` call makes several. */

import type { IExecution } from '../state';

/**
 * One execution for each request of the front end, in the order of their beginnings.
 *
 * It begins with the first and lasts as long as all of them together, without the time between them. Costs are summed,
 * the load is the mean over the time, and it has succeeded if each has. While one of them runs, it has not ended.
 */
export function mergeExecutions(executions: readonly IExecution[]): IExecution[] {
  const byRequest = new Map<string, IExecution[]>();
  for (const execution of executions) {
    const others = byRequest.get(execution.request_id);
    if (others === undefined) {
      byRequest.set(execution.request_id, [execution]);
    } else {
      others.push(execution);
    }
  }
  return [...byRequest.values()].flatMap(merge).sort((a, b) => a.started_unix_s - b.started_unix_s);
}

function merge(executions: IExecution[]): IExecution[] {
  const ordered = [...executions].sort((a, b) => a.started_unix_s - b.started_unix_s);
  const [first] = ordered;
  if (first === undefined || ordered.length === 1) {
    return ordered;
  }
  const durations = ordered.map(each => (each.ended_unix_s ?? NaN) - each.started_unix_s);
  const duration_s = durations.reduce((sum, each) => sum + Math.max(0, each), 0);
  const longest = ordered[durations.indexOf(Math.max(...durations))] ?? first;
  const costs = known(ordered.map(({ cost }) => cost));
  const outcomes = ordered.map(({ succeeded }) => succeeded);
  const peaks = known(ordered.map(({ peak_memory_bytes }) => peak_memory_bytes));
  return [
    {
      ...longest,
      execution_count: first.execution_count,
      started_unix_s: first.started_unix_s,
      ended_unix_s: Number.isNaN(duration_s) ? null : first.started_unix_s + duration_s,
      succeeded: outcomes.includes(false) ? false : outcomes.includes(null) ? null : true,
      mean_utilisation_percent: meanOf(ordered, durations),
      peak_memory_bytes: peaks.length === 0 ? null : Math.max(...peaks),
      cost: costs.length === 0 ? null : costs.reduce((sum, each) => sum + each, 0)
    }
  ];
}

/** Over the time of those whose load is known; of too short ones it is not. */
function meanOf(executions: readonly IExecution[], durations: readonly number[]): number | null {
  let sum = 0;
  let measured_s = 0;
  executions.forEach(({ mean_utilisation_percent }, index) => {
    if (mean_utilisation_percent !== null) {
      const duration_s = Math.max(durations[index] ?? 0, Number.EPSILON);
      sum += mean_utilisation_percent * duration_s;
      measured_s += duration_s;
    }
  });
  return measured_s === 0 ? null : sum / measured_s;
}

function known(values: readonly (number | null)[]): number[] {
  return values.filter(value => value !== null);
}
