/** A small drawing of a share over the last seconds, from 0 to 100 percent. */

import * as React from 'react';

import type { Track } from '../history';

const WIDTH = 70;
const HEIGHT = 22;
/** More points than that cannot be told apart. */
const POINTS = 60;

/** The points of the line, in pixels, as runs that unknown values break. */
export function outline(track: Track, window_s: number): [number, number][][] {
  const end_s = track.latest?.time_unix_s ?? 0;
  const from_s = end_s - window_s;
  const times = track.times(from_s);
  const values = track.values('utilisation_percent', from_s);
  const runs: [number, number][][] = [];
  let run: [number, number][] = [];
  const close = () => {
    if (run.length > 0) {
      runs.push(run);
      run = [];
    }
  };
  const step = Math.max(1, times.length / POINTS);
  for (let first = 0; first < times.length; first += step) {
    const from = Math.floor(first);
    const to = Math.min(times.length, Math.max(from + 1, Math.floor(first + step)));
    const mean = values.subarray(from, to).reduce((a, b) => a + b, 0) / (to - from);
    if (Number.isNaN(mean)) {
      close();
      continue;
    }
    const x = (((times[to - 1] ?? 0) - from_s) / window_s) * WIDTH;
    const y = HEIGHT - 1 - (Math.min(100, Math.max(0, mean)) / 100) * (HEIGHT - 2);
    run.push([round(x), round(y)]);
  }
  close();
  return runs;
}

function round(pixels: number): number {
  return Math.round(pixels * 10) / 10;
}

/** Draws the utilisation of the last `window_s` seconds. */
export function Sparkline(props: {
  track: Track | undefined;
  window_s: number;
}): React.JSX.Element {
  const runs = props.track === undefined ? [] : outline(props.track, props.window_s);
  return (
    <svg
      className="nbgpu-Sparkline"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      {runs.map((run, index) => {
        const line = run.map(([x, y]) => `${x},${y}`).join(' ');
        const [first, last] = [run[0]?.[0] ?? 0, run.at(-1)?.[0] ?? 0];
        return (
          <g key={index}>
            <polygon points={`${first},${HEIGHT} ${line} ${last},${HEIGHT}`} />
            <polyline points={line} vectorEffect="non-scaling-stroke" />
          </g>
        );
      })}
    </svg>
  );
}
