/** How measured values read, with their units; what is unknown is a dash. */

export const UNKNOWN = '–';

const MIB = 2 ** 20;
const LEAST_AMOUNT = 0.0001;
const GIB = 2 ** 30;

/** The capacity as makers sell it: "80 GB". */
export function formatMemory(memory_bytes: number): string {
  return `${Math.round(memory_bytes / 1e9)} GB`;
}

/** "61 of 80 GiB", "50 MiB of 24 GiB", "3.2 GiB" where the capacity is unknown. */
export function formatUsed(used_bytes: number | null, total_bytes: number | null): string {
  if (used_bytes === null) {
    return UNKNOWN;
  }
  if (total_bytes === null) {
    return formatBytes(used_bytes);
  }
  const used = isSmall(used_bytes) ? formatBytes(used_bytes) : gib(used_bytes);
  return `${used} of ${gib(total_bytes)} GiB`;
}

/** "50 MiB", "3.2 GiB", "61 GiB". */
export function formatBytes(bytes: number): string {
  return isSmall(bytes) ? `${Math.round(bytes / MIB)} MiB` : `${gib(bytes)} GiB`;
}

function isSmall(bytes: number): boolean {
  return bytes > 0 && bytes < 0.95 * GIB;
}

function gib(bytes: number): string {
  const value = bytes / GIB;
  return value < 9.95 && value > 0 ? value.toFixed(1) : String(Math.round(value));
}

/** "94%". */
export function formatSize(bytes: number): string {
  if (bytes < 1024) {
    return `${bytes} B`;
  }
  return bytes < MIB ? `${Math.round(bytes / 1024)} KiB` : formatBytes(bytes);
}

/** "86%"; a dash for what is unknown. */
export function formatPercent(percent: number | null): string {
  return percent === null ? UNKNOWN : `${Math.round(percent)}%`;
}

/** "642 W". */
export function formatWatts(watts: number | null): string {
  return watts === null ? `${UNKNOWN} W` : `${Math.round(watts)} W`;
}

/** "66 °C". */
export function formatCelsius(celsius: number | null): string {
  return celsius === null ? `${UNKNOWN} °C` : `${Math.round(celsius)} °C`;
}

/** "1980 MHz". */
export function formatMhz(mhz: number | null): string {
  return mhz === null ? UNKNOWN : `${Math.round(mhz)} MHz`;
}

/** "0 B/s", "35 kB/s", "1.2 GB/s". */
export function formatRate(bytes_per_s: number | null): string {
  if (bytes_per_s === null) {
    return UNKNOWN;
  }
  let value = bytes_per_s;
  for (const unit of ['B/s', 'kB/s', 'MB/s', 'GB/s']) {
    if (value < 999.5 || unit === 'GB/s') {
      return `${value < 9.95 && unit !== 'B/s' ? value.toFixed(1) : Math.round(value)} ${unit}`;
    }
    value /= 1000;
  }
  throw new Error('the last unit takes every value');
}

/** "$2.10", "$0.0005", "EUR 1.20": two decimals, or one figure that counts below a cent; "<$0.0001" at the least. */
export function formatMoney(amount: number, currency: string | null): string {
  const unit = currency === null || currency === '' || currency === 'USD' ? '$' : `${currency} `;
  if (amount > 0 && amount < LEAST_AMOUNT) {
    return `<${unit}${LEAST_AMOUNT}`;
  }
  const decimals = amount === 0 || amount >= 0.01 ? 2 : Math.ceil(-Math.log10(amount));
  return unit + amount.toFixed(decimals);
}
