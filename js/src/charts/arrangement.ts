/** Which GPUs and which of their readings have charts. Pure. */

import type { History, Track } from '../history';
import { gpusOf } from '../lookup';
import type { IAccelerator, IPageState, IPool } from '../state';
import { nameOfAccelerator } from '../words/samples';
import { CHARTS, isKnown, type IChartKind } from './scales';

/** One GPU, or one slice of one. */
export interface IChartRow {
  pool: string;
  hostname: string;
  acceleratorId: string;
  name: string;
  product: string;
  simulated: boolean;
  track: Track;
}

export interface IArrangement {
  hasPools: boolean;
  rows: readonly IChartRow[];
  /** The same for every row, so that they can be compared. */
  kinds: readonly IChartKind[];
  /** Equal where nothing but readings is different. */
  key: string;
}

/** Arranges what is known of the last `span_s` seconds. */
export function arrange(
  { state, history }: { state: IPageState | null; history: History },
  span_s: number
): IArrangement {
  const pools = (state?.pools ?? []).filter(({ link }) => link === 'connected');
  const rows = pools.flatMap(pool =>
    gpusOf(pool)
      .flatMap(({ accelerator, slices }) =>
        accelerator === null ? [...slices] : [accelerator, ...slices]
      )
      .flatMap(accelerator => {
        const track = history.track(pool.name, accelerator.id);
        return track === undefined || track.length === 0 ? [] : [rowOf(pool, accelerator, track)];
      })
  );
  const tracks = rows.map(({ track }) => track);
  const from_unix_s = Math.max(0, ...tracks.map(({ latest }) => latest?.time_unix_s ?? 0)) - span_s;
  const kinds = CHARTS.filter(kind => isKnown(kind, tracks, from_unix_s));
  const hasPools = pools.length > 0;
  const key = JSON.stringify([
    hasPools,
    kinds.map(({ title }) => title),
    rows.map(({ pool, hostname, acceleratorId, name, product, simulated }) => [
      pool,
      hostname,
      acceleratorId,
      name,
      product,
      simulated
    ])
  ]);
  return { hasPools, rows, kinds, key };
}

function rowOf(pool: IPool, accelerator: IAccelerator, track: Track): IChartRow {
  return {
    pool: pool.name,
    hostname: pool.node?.hostname ?? pool.name,
    acceleratorId: accelerator.id,
    name: nameOfAccelerator(accelerator),
    product: accelerator.product_name || accelerator.type,
    simulated: accelerator.simulated,
    track
  };
}
