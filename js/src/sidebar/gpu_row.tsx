/** The live row of one accelerator, which opens to show clocks, links, errors and processes. */

import type { ISignal } from '@lumino/signaling';
import * as React from 'react';

import type { Track } from '../history';
import type { IAccelerator, ISample, ISession } from '../state';
import { formatPercent, formatUsed, UNKNOWN } from '../words/quantities';
import {
  describeHeat,
  describeProcesses,
  describeReading,
  describeTroubles,
  factsOf
} from '../words/samples';
import { Disclosure, Facts } from './elements';
import { useSignal } from './hooks';
import { Sparkline } from './sparkline';

export function GpuRow(props: {
  accelerator: IAccelerator;
  /** Undefined before the first reading. */
  findTrack: () => Track | undefined;
  /** Emits when there are new readings to draw. */
  sampled: ISignal<unknown, unknown>;
  sessions: readonly ISession[];
  window_s: number;
}): React.JSX.Element {
  const { accelerator, findTrack, sampled, sessions, window_s } = props;
  useSignal(sampled);
  const track = findTrack();
  const [isOpen, setOpen] = React.useState(false);
  const sample = track?.latest ?? null;
  return (
    <Disclosure
      label={describeReading(accelerator, sample)}
      className="nbgpu-GpuRow"
      isOpen={isOpen}
      onToggle={() => {
        setOpen(!isOpen);
      }}
      summary={
        <>
          <span className="nbgpu-GpuRow-index">{accelerator.shared ? '' : accelerator.index}</span>
          <Sparkline track={track} window_s={window_s} />
          <span className="nbgpu-GpuRow-number">
            {formatPercent(sample?.utilisation_percent ?? null)}
          </span>
          <MemoryBar sample={sample} />
          <span className="nbgpu-GpuRow-second">
            <span className="nbgpu-GpuRow-memory">
              {formatUsed(sample?.memory_used_bytes ?? null, sample?.memory_total_bytes ?? null)}
            </span>
            <Condition accelerator={accelerator} sample={sample} />
          </span>
        </>
      }
    >
      {sample === null ? (
        <p className="nbgpu-note">No reading yet.</p>
      ) : (
        <Detail accelerator={accelerator} sample={sample} sessions={sessions} />
      )}
    </Disclosure>
  );
}

function MemoryBar(props: { sample: ISample | null }): React.JSX.Element {
  const used = props.sample?.memory_used_bytes ?? null;
  const total = props.sample?.memory_total_bytes ?? null;
  const share = used === null || total === null || total === 0 ? 0 : used / total;
  return (
    <span className="nbgpu-Memory">
      <span className="nbgpu-Memory-bar">
        <span style={{ width: `${Math.min(100, 100 * share).toFixed(1)}%` }} />
      </span>
      <span className="nbgpu-note">{formatUsed(used, total)}</span>
    </span>
  );
}

/** Power and temperature, or in their place what is wrong. */
function Condition(props: {
  accelerator: IAccelerator;
  sample: ISample | null;
}): React.JSX.Element | null {
  const { accelerator, sample } = props;
  const troubles = sample === null ? [] : describeTroubles(sample);
  if (troubles.length > 0) {
    return (
      <span className="nbgpu-GpuRow-condition nbgpu-warn" title={troubles.join(', ')}>
        {troubles[0]}
        {troubles.length > 1 && ` +${troubles.length - 1}`}
      </span>
    );
  }
  const heat = sample === null ? null : describeHeat(sample);
  if (heat === null && accelerator.simulated) {
    // its heading says that it is simulated: there is no power or temperature to know
    return null;
  }
  const reason = 'Neither power nor temperature is known';
  return (
    <span className="nbgpu-GpuRow-condition" title={heat === null ? reason : undefined}>
      {heat ?? UNKNOWN}
    </span>
  );
}

function Detail(props: {
  accelerator: IAccelerator;
  sample: ISample;
  sessions: readonly ISession[];
}): React.JSX.Element {
  const { accelerator, sample, sessions } = props;
  const processes = describeProcesses(sample, sessions);
  const troubles = describeTroubles(sample);
  const heat = describeHeat(sample);
  const rows = [
    ...(troubles.length === 0
      ? []
      : [{ name: 'Troubles', value: <span className="nbgpu-warn">{troubles.join(', ')}</span> }]),
    ...(troubles.length === 0 || heat === null ? [] : [{ name: 'Power', value: heat }]),
    ...factsOf(accelerator, sample).map(({ name, value, reason }) => ({
      name,
      value,
      title: reason
    })),
    {
      name: 'Processes',
      value:
        processes.length === 0
          ? 'none'
          : processes.map((process, index) => <div key={index}>{process}</div>)
    }
  ];
  return <Facts rows={rows} />;
}
