/** The section of GPUs: one live row each, with the window, the pause, and the way to the wide charts. */

import { HTMLSelect, launchIcon, runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import { pauseIcon } from '../icon';
import { gpusOf, type IGpu } from '../lookup';
import type { Page } from '../page';
import type { IAccelerator, IPool } from '../state';
import { WINDOWS } from '../windows';
import { describeAccelerators } from '../words/accelerators';
import { IconButton, Section, SimulatedMark } from './elements';
import { GpuRow } from './gpu_row';
import type { ISignal } from '@lumino/signaling';

interface IGroup {
  key: string;
  heading: string;
  simulated: boolean;
  gpus: IGpu[];
}

/** Shows every GPU of the pools that are connected. Readings draw nothing but the rows anew. */
export function GpusSection(props: {
  page: Page;
  pools: readonly IPool[];
  /** Emits when there is something new to draw. */
  sampled: ISignal<unknown, unknown>;
  onOpenCharts: () => void;
}): React.JSX.Element | null {
  const { page, pools, sampled, onOpenCharts } = props;
  const [window_s, setWindow] = React.useState(60);
  const pausedAt_s = React.useRef<number | null>(null);
  const groups = groupsOf(pools);
  const isPaused = page.feed.isPaused;
  if (groups.length === 0) {
    return null;
  }
  const togglePause = () => {
    page.feed.setPaused(!isPaused);
    if (!isPaused) {
      pausedAt_s.current = page.now_s;
    } else if (pausedAt_s.current !== null) {
      void page.backfill(page.now_s - pausedAt_s.current + 2, 0);
    }
  };
  const chooseWindow = (chosen_s: number) => {
    setWindow(chosen_s);
    const step_s = WINDOWS.find(({ span_s }) => span_s === chosen_s)?.step_s ?? 0;
    void page.backfill(chosen_s, step_s);
  };
  const controls = (
    <span className="nbgpu-Controls">
      <HTMLSelect
        className="nbgpu-Select"
        aria-label="Time shown"
        value={window_s}
        onChange={event => {
          chooseWindow(Number(event.target.value));
        }}
      >
        {WINDOWS.map(({ span_s, short }) => (
          <option key={span_s} value={span_s}>
            {short}
          </option>
        ))}
      </HTMLSelect>
      <IconButton
        icon={isPaused ? runIcon : pauseIcon}
        label={isPaused ? 'Go on' : 'Pause'}
        onClick={togglePause}
      />
      <IconButton icon={launchIcon} label="Open charts of all GPUs" onClick={onOpenCharts} />
    </span>
  );
  return (
    <Section id="gpus" title="GPUs" note={controls}>
      {isPaused && (
        <p className="nbgpu-note" role="status">
          Paused
        </p>
      )}
      {groups.map(group => (
        <div key={group.key} className="nbgpu-Group">
          {(groups.length > 1 || group.simulated) && (
            <div className="nbgpu-Subheading">
              <span>{group.heading}</span>
              {group.simulated && <SimulatedMark />}
            </div>
          )}
          <ul className="nbgpu-List" aria-label={group.heading}>
            {group.gpus.map(gpu => (
              <GpuItem
                key={gpu.accelerator?.id ?? gpu.slices[0]?.id}
                page={page}
                gpu={gpu}
                sampled={sampled}
                window_s={window_s}
              />
            ))}
          </ul>
        </div>
      ))}
    </Section>
  );
}

/** One group a pool and type, so that a row need not repeat either. */
function groupsOf(pools: readonly IPool[]): IGroup[] {
  const groups = new Map<string, IGroup>();
  const connected = pools.filter(({ link }) => link === 'connected');
  for (const pool of connected) {
    for (const gpu of gpusOf(pool)) {
      const sample = gpu.accelerator ?? gpu.slices[0];
      if (sample === undefined) {
        continue;
      }
      const key = JSON.stringify([pool.name, sample.type, sample.simulated]);
      const group = groups.get(key) ?? {
        key,
        heading: '',
        simulated: sample.simulated,
        gpus: []
      };
      group.gpus.push(gpu);
      groups.set(key, group);
      const members = group.gpus.flatMap(({ accelerator, slices }) =>
        accelerator === null ? slices : [accelerator]
      );
      group.heading =
        (describeAccelerators(members) ?? '') + (connected.length > 1 ? ` on ${pool.name}` : '');
    }
  }
  return [...groups.values()];
}

function GpuItem(props: {
  page: Page;
  gpu: IGpu;
  sampled: ISignal<unknown, unknown>;
  window_s: number;
}): React.JSX.Element {
  const { page, gpu, sampled, window_s } = props;
  const row = (accelerator: IAccelerator) => (
    <GpuRow
      accelerator={accelerator}
      findTrack={() => page.history.track(gpu.pool.name, accelerator.id)}
      sampled={sampled}
      sessions={gpu.pool.sessions}
      window_s={window_s}
    />
  );
  return (
    <li className="nbgpu-GpuItem" data-accelerator={gpu.accelerator?.id ?? ''}>
      {gpu.accelerator !== null && row(gpu.accelerator)}
      {gpu.slices.length > 0 && (
        <ul
          className="nbgpu-List nbgpu-Slices"
          aria-label={
            gpu.accelerator === null ? 'MIG slices' : `MIG slices of GPU ${gpu.accelerator.index}`
          }
        >
          {gpu.slices.map(slice => (
            <li key={slice.id} data-accelerator={slice.id}>
              {row(slice)}
            </li>
          ))}
        </ul>
      )}
    </li>
  );
}
