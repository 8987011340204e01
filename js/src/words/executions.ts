/** How an execution on accelerators reads in one line under its cell: while it runs, and afterwards. */

import type { IExecution } from '../state';
import { formatBytes, formatMoney, formatPercent, formatUsed } from './quantities';
import { formatDuration, formatMeasured } from './time';

/** Below this share of its time a GPU is mostly idle, and something else is what the cell waits for. */
export const STARVED_PERCENT = 20;
/** Shorter than this, and a mean says nothing about where the time goes. */
export const STARVED_AFTER_S = 60;

/** What is kept of an execution in the metadata of its cell, as `nbgpu`. */
export interface IProvenance {
  request_id: string;
  accelerators: string;
  simulated: boolean;
  started_unix_s: number;
  duration_s: number;
  succeeded: boolean | null;
  mean_utilisation_percent: number | null;
  peak_memory_bytes: number | null;
  cost: number | null;
  currency: string | null;
}

/** Load of the accelerators of a session now, taken together. */
export interface ILoad {
  utilisation_percent: number | null;
  memory_used_bytes: number | null;
  memory_total_bytes: number | null;
}

/** Null while the execution still runs. */
export function provenanceOf(execution: IExecution): IProvenance | null {
  if (execution.ended_unix_s === null) {
    return null;
  }
  return {
    request_id: execution.request_id,
    accelerators: execution.accelerators,
    simulated: execution.simulated,
    started_unix_s: execution.started_unix_s,
    duration_s: Math.max(0, execution.ended_unix_s - execution.started_unix_s),
    succeeded: execution.succeeded,
    mean_utilisation_percent: execution.mean_utilisation_percent,
    peak_memory_bytes: execution.peak_memory_bytes,
    cost: execution.cost,
    currency: execution.currency
  };
}

/** Reads what a notebook's file has, which anybody may have written: null if it is not what this version writes. */
export function readProvenance(value: unknown): IProvenance | null {
  if (typeof value !== 'object' || value === null) {
    return null;
  }
  const fields = value as Record<string, unknown>;
  const text = (name: string) => {
    const field = fields[name];
    return typeof field === 'string' ? field : null;
  };
  const number = (name: string) => {
    const field = fields[name];
    return typeof field === 'number' && Number.isFinite(field) ? field : null;
  };
  const accelerators = text('accelerators');
  const duration_s = number('duration_s');
  if (accelerators === null || duration_s === null) {
    return null;
  }
  return {
    request_id: text('request_id') ?? '',
    accelerators,
    simulated: fields['simulated'] === true,
    started_unix_s: number('started_unix_s') ?? 0,
    duration_s,
    succeeded: typeof fields['succeeded'] === 'boolean' ? fields['succeeded'] : null,
    mean_utilisation_percent: number('mean_utilisation_percent'),
    peak_memory_bytes: number('peak_memory_bytes'),
    cost: number('cost'),
    currency: text('currency')
  };
}

/** "H100 · 0.8 s · mean 41% · peak 3.2 GiB · $0.0005"; what is unknown is left out. */
export function describeProvenance(provenance: IProvenance): string {
  const parts = [
    named(provenance.accelerators, provenance.simulated),
    formatMeasured(provenance.duration_s)
  ];
  if (provenance.mean_utilisation_percent !== null) {
    parts.push(`mean ${formatPercent(provenance.mean_utilisation_percent)}`);
  }
  if (provenance.peak_memory_bytes !== null) {
    parts.push(`peak ${formatBytes(provenance.peak_memory_bytes)}`);
  }
  if (provenance.cost !== null) {
    parts.push(formatMoney(provenance.cost, provenance.currency));
  }
  if (provenance.succeeded === false) {
    parts.push('failed');
  }
  return parts.join(' · ');
}

/** "running on H100 ×8 for 1:32 · GPU 86% · 61 of 80 GiB". */
export function describeRunning(execution: IExecution, load: ILoad, now_s: number): string {
  const where = named(execution.accelerators, execution.simulated);
  const parts = [
    `running${where === '' ? '' : ` on ${where}`} for ${formatDuration(now_s - execution.started_unix_s)}`
  ];
  if (load.utilisation_percent !== null) {
    const what = execution.accelerators === 'CPU' ? 'CPU' : 'GPU';
    parts.push(`${what} ${formatPercent(load.utilisation_percent)}`);
  }
  if (load.memory_used_bytes !== null) {
    parts.push(formatUsed(load.memory_used_bytes, load.memory_total_bytes));
  }
  return parts.join(' · ');
}

function named(accelerators: string, simulated: boolean): string {
  return simulated && !accelerators.includes('simulated')
    ? `${accelerators} (simulated)`
    : accelerators;
}
