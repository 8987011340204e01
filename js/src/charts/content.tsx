/** What the wide panel shows: every GPU's charts side by side, on the same scales. */

import { HTMLSelect } from '@jupyterlab/ui-components';
import type { ISignal } from '@lumino/signaling';
import * as React from 'react';

import type { Page } from '../page';
import { SimulatedMark } from '../sidebar/elements';
import { WINDOWS } from '../windows';
import { ChartBoard } from './board';
import { Chart } from './chart';
import { arrange, type IArrangement, type IChartRow } from './arrangement';
import type { IChartKind } from './scales';

const FIRST_SPAN_S = 600;
const HOUR_S = 3600;
/** Between what is fetched of the last hour. */
const BACKFILL_STEP_S = 5;

/** React lays the charts out anew only where there are others than before; readings go to the board alone. */
export function ChartsContent(props: {
  page: Page;
  changed: ISignal<unknown, unknown>;
  sampled: ISignal<unknown, unknown>;
}): React.JSX.Element {
  const { page, changed, sampled } = props;
  const [span_s, setSpan] = React.useState(FIRST_SPAN_S);
  const [board] = React.useState(() => new ChartBoard());
  const arrangement = useArrangement(page, board, changed, sampled, span_s);
  const { hasPools, rows, kinds } = arrangement;
  React.useEffect(() => {
    if (hasPools) {
      void page.backfill(HOUR_S, BACKFILL_STEP_S);
    }
  }, [page, hasPools]);
  return (
    <>
      <div className="nbgpu-Charts-header">
        <h1>GPU charts</h1>
        <HTMLSelect
          className="nbgpu-Select"
          aria-label="Time shown"
          value={span_s}
          onChange={event => {
            setSpan(Number(event.target.value));
          }}
        >
          {WINDOWS.map(({ span_s, label }) => (
            <option key={span_s} value={span_s}>
              {label}
            </option>
          ))}
        </HTMLSelect>
      </div>
      {rows.length === 0 && (
        <p className="nbgpu-Empty" role="status">
          {hasPools ? 'No reading yet.' : 'No pool is connected: the GPU panel says why.'}
        </p>
      )}
      {rows.map(row => (
        <ChartRow key={`${row.pool} ${row.acceleratorId}`} row={row} kinds={kinds} board={board} />
      ))}
    </>
  );
}

function ChartRow(props: {
  row: IChartRow;
  kinds: readonly IChartKind[];
  board: ChartBoard;
}): React.JSX.Element {
  const { row, kinds, board } = props;
  const name = `${row.name}, ${row.product}`;
  return (
    <section
      className="nbgpu-ChartRow"
      aria-label={`${name} on ${row.pool}`}
      data-accelerator={row.acceleratorId}
    >
      <h2>
        {row.name}{' '}
        <span className="nbgpu-note">
          {row.product} · {row.hostname}
        </span>
        {row.simulated && <SimulatedMark />}
      </h2>
      <div className="nbgpu-ChartRow-charts">
        {kinds.map(kind => (
          <div key={kind.title} className="nbgpu-ChartCell">
            <div className="nbgpu-ChartCell-title">
              <span>
                {kind.title}
                {kind.series.length > 1 &&
                  kind.series.map(({ label }, index) => (
                    <span key={label} className="nbgpu-ChartCell-series" data-series={index}>
                      {label}
                    </span>
                  ))}
              </span>
              <span className="nbgpu-ChartCell-value" />
            </div>
            <Chart kind={kind} track={row.track} label={`${kind.title} of ${name}`} board={board} />
          </div>
        ))}
      </div>
    </section>
  );
}

/**
 * Which charts there are, and keeps them drawn.
 *
 * A change of the state is drawn at once, and so is the first reading. Others are drawn as often as the span asks for,
 * and what comes in between is not lost.
 */
function useArrangement(
  page: Page,
  board: ChartBoard,
  changed: ISignal<unknown, unknown>,
  sampled: ISignal<unknown, unknown>,
  span_s: number
): IArrangement {
  const [arrangement, setArrangement] = React.useState(() => arrange(page, span_s));
  React.useEffect(() => {
    const redraw_ms = 1000 * (WINDOWS.find(w => w.span_s === span_s)?.redraw_s ?? 1);
    let shownKey: string | null = null;
    let isEmpty = true;
    let last_ms = -Infinity;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const redraw = () => {
      clearTimeout(timer);
      timer = undefined;
      last_ms = performance.now();
      const next = arrange(page, span_s);
      isEmpty = next.rows.length === 0;
      if (next.key !== shownKey) {
        shownKey = next.key;
        setArrangement(next);
      }
      board.draw(
        next.kinds,
        next.rows.map(({ track }) => track),
        span_s
      );
    };
    const onSampled = () => {
      // a little less than the interval: samples come unevenly
      const left_ms = last_ms + redraw_ms - 300 - performance.now();
      if (left_ms <= 0 || isEmpty) {
        redraw();
      } else {
        timer ??= setTimeout(redraw, left_ms);
      }
    };
    changed.connect(redraw);
    sampled.connect(onSampled);
    // what came between the first drawing and now
    redraw();
    return () => {
      changed.disconnect(redraw);
      sampled.disconnect(onSampled);
      clearTimeout(timer);
    };
  }, [page, board, changed, sampled, span_s]);
  React.useEffect(
    () => () => {
      board.dispose();
    },
    [board]
  );
  return arrangement;
}
