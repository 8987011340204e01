/** How a reading of an accelerator reads: one line for a screen reader, what is wrong, and the facts in full. */

import type { IAccelerator, ISample, ISession } from '../state';
import {
  formatCelsius,
  formatBytes,
  formatMhz,
  formatPercent,
  formatRate,
  formatUsed,
  formatWatts,
  UNKNOWN
} from './quantities';
import { count } from './sentences';

export interface IFact {
  name: string;
  value: string;
  /** Why the value is unknown; null where it is known. */
  reason: string | null;
}

/** "GPU 0", "MIG slice 2", "CPU". */
export function nameOfAccelerator(accelerator: IAccelerator): string {
  if (accelerator.shared) {
    return accelerator.type;
  }
  return `${accelerator.mig_parent_id === null ? 'GPU' : 'MIG slice'} ${accelerator.index}`;
}

/** "642 W · 66 °C"; null where the device measures neither, as a simulated one does not. */
export function describeHeat(sample: ISample): string | null {
  return sample.power_watts === null && sample.temperature_celsius === null
    ? null
    : `${formatWatts(sample.power_watts)} · ${formatCelsius(sample.temperature_celsius)}`;
}

/** What slows the device down or is broken, in words, worst first. */
export function describeTroubles(sample: ISample): string[] {
  const troubles: string[] = [];
  if (sample.xid !== null) {
    const { code, meaning } = sample.xid;
    troubles.push(meaning === '' ? `XID ${code}` : `XID ${code}: ${meaning}`);
  }
  if (sample.ecc_errors_uncorrected !== null && sample.ecc_errors_uncorrected > 0) {
    troubles.push(count(sample.ecc_errors_uncorrected, 'uncorrected ECC error'));
  }
  return [...troubles, ...sample.throttle_reasons];
}

/** Everything that a row shows, for a screen reader. */
export function describeReading(accelerator: IAccelerator, sample: ISample | null): string {
  const name = `${nameOfAccelerator(accelerator)}, ${accelerator.type}`;
  if (sample === null) {
    return `${name}: no reading yet`;
  }
  const parts = [
    `${formatPercent(sample.utilisation_percent)} busy`,
    `${formatUsed(sample.memory_used_bytes, sample.memory_total_bytes)} of memory`,
    ...(describeHeat(sample) === null ? [] : [describeHeat(sample) ?? '']),
    ...describeTroubles(sample)
  ];
  return `${name}${accelerator.simulated ? ', simulated' : ''}: ${parts.join(', ')}`;
}

/** What the detail of a row lists. */
export function factsOf(accelerator: IAccelerator, sample: ISample): IFact[] {
  const reason = accelerator.simulated
    ? 'a simulated accelerator has none'
    : accelerator.shared
      ? 'not measured for the CPU'
      : 'the driver of this GPU does not say';
  const fact = (name: string, value: string): IFact => ({
    name,
    value,
    reason: value.includes(UNKNOWN) ? reason : null
  });
  const pair = (tx: number | null, rx: number | null) =>
    tx === null && rx === null ? UNKNOWN : `${formatRate(tx)} out, ${formatRate(rx)} in`;
  const facts: IFact[] = [
    { name: 'Model', value: accelerator.product_name || accelerator.type, reason: null }
  ];
  if (accelerator.shared) {
    return facts;
  }
  return [
    ...facts,
    fact('Clocks', clocks(sample)),
    fact('Power limit', formatWatts(sample.power_limit_watts)),
    fact('PCIe', pair(sample.pcie_tx_bytes_per_s, sample.pcie_rx_bytes_per_s)),
    fact('NVLink', pair(sample.nvlink_tx_bytes_per_s, sample.nvlink_rx_bytes_per_s)),
    fact('ECC errors', ecc(sample))
  ];
}

function clocks({ sm_clock_mhz, memory_clock_mhz }: ISample): string {
  return sm_clock_mhz === null && memory_clock_mhz === null
    ? UNKNOWN
    : `${formatMhz(sm_clock_mhz)}, memory ${formatMhz(memory_clock_mhz)}`;
}

function ecc({ ecc_errors_corrected, ecc_errors_uncorrected }: ISample): string {
  return ecc_errors_corrected === null && ecc_errors_uncorrected === null
    ? UNKNOWN
    : `${ecc_errors_corrected ?? UNKNOWN} corrected, ${ecc_errors_uncorrected ?? UNKNOWN} not`;
}

/** "digits.ipynb: python (4211), 3.2 GiB", one a process; of another user's only the memory. */
export function describeProcesses(sample: ISample, sessions: readonly ISession[]): string[] {
  return sample.processes.map(process => {
    const memory = process.memory_bytes === null ? '' : `, ${formatBytes(process.memory_bytes)}`;
    if (process.other_user) {
      return `another user${memory}`;
    }
    const session = sessions.find(({ id }) => id === process.session_id);
    const owner = session === undefined ? 'no session' : (session.notebook_name ?? 'a session');
    return `${owner}: ${process.name ?? 'process'} (${process.pid})${memory}`;
  });
}
