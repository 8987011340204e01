/** Leaves of many readings as many as the pixels of a chart can show, peaks and dips kept. Pure. */

/** Times in seconds since 1970 and one column a series, as uPlot reads them; null is a gap. */
export type Columns = [number[], ...(number | null)[][]];

/**
 * Makes two rows of the readings of each pixel, with every series' lowest and highest in the order in which they came.
 *
 * Pixels begin at round times, so that a reading stays in its pixel while the chart moves on. A gap shows where it
 * fills a pixel. NaN is unknown.
 */
export function thin(
  times: Float64Array,
  series: readonly Float64Array[],
  span_s: number,
  width_px: number
): Columns {
  const pixel_s = span_s / Math.max(1, width_px);
  const thinned: Columns = [[]];
  const [outTimes] = thinned;
  const ends: number[] = [];
  for (let first = 0; first < times.length;) {
    const pixel = Math.floor((times[first] ?? 0) / pixel_s);
    let end = first + 1;
    while (end < times.length && Math.floor((times[end] ?? 0) / pixel_s) === pixel) {
      end++;
    }
    ends.push(end);
    outTimes.push(times[first] ?? 0);
    if (end - first > 1) {
      outTimes.push(times[end - 1] ?? 0);
    }
    first = end;
  }
  for (const values of series) {
    thinned.push(extremes(values, ends));
  }
  return thinned;
}

/** The lowest and the highest up to each end in the order in which they came; one value is itself. */
function extremes(values: Float64Array, ends: readonly number[]): (number | null)[] {
  const out: (number | null)[] = [];
  let first = 0;
  for (const end of ends) {
    let low = NaN;
    let high = NaN;
    let isRising = true;
    for (let index = first; index < end; index++) {
      const value = values[index] ?? NaN;
      if (Number.isNaN(value)) {
        continue;
      }
      // written so that the first value is taken for both
      if (!(value >= low)) {
        low = value;
        isRising = false;
      }
      if (!(value < high)) {
        high = value;
        isRising = true;
      }
    }
    out.push(known(isRising ? low : high));
    if (end - first > 1) {
      out.push(known(isRising ? high : low));
    }
    first = end;
  }
  return out;
}

function known(value: number): number | null {
  return Number.isNaN(value) ? null : value;
}
