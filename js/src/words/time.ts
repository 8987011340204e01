/** How spans of time read: running clocks, ages, and measured durations. */

/** "0:07", "1:32", "1:02:03". */
export function formatDuration(duration_s: number): string {
  const whole = Math.max(0, Math.floor(duration_s));
  const seconds = String(whole % 60).padStart(2, '0');
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours === 0
    ? `${minutes}:${seconds}`
    : `${hours}:${String(minutes).padStart(2, '0')}:${seconds}`;
}

/** "48 ms", "0.8 s" and "12 s", and from a minute on as a clock: "1:32". */
export function formatMeasured(duration_s: number): string {
  if (duration_s >= 59.5) {
    return formatDuration(Math.round(duration_s));
  }
  if (duration_s < 0.095) {
    return `${Math.round(1000 * Math.max(0, duration_s))} ms`;
  }
  return `${duration_s < 9.95 ? duration_s.toFixed(1) : Math.round(duration_s)} s`;
}

/** "less than a minute", "12 min", "3 h", "2 days". */
export function formatAge(age_s: number): string {
  const minutes = Math.floor(age_s / 60);
  if (minutes < 1) {
    return 'less than a minute';
  }
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 48) {
    return `${hours} h`;
  }
  return `${Math.floor(hours / 24)} days`;
}

/** What was agreed, in whole minutes where it fits: "60 min", "90 s", "3 h", "7 days". */
export function formatSpan(span_s: number): string {
  if (span_s < 120) {
    return `${Math.round(span_s)} s`;
  }
  const minutes = Math.round(span_s / 60);
  if (minutes <= 120) {
    return `${minutes} min`;
  }
  const hours = +(minutes / 60).toFixed(1);
  return hours < 48 ? `${hours} h` : `${+(hours / 24).toFixed(1)} days`;
}
