import { describe, expect, it } from 'vitest';

import { adviceForGpuCell, adviceForLocalCell } from '../cells/advice';
import { asGpuCell, hasOtherMagic, loadsMagics, usesGpu } from '../cells/usage';
import {
  describeProvenance,
  describeRunning,
  provenanceOf,
  readProvenance
} from '../words/executions';
import { accelerator, execution, GIB, NOW_S, session } from './values';

const DONE = execution({
  ended_unix_s: NOW_S - 91.2,
  succeeded: true,
  accelerators: 'H100',
  mean_utilisation_percent: 41.4,
  peak_memory_bytes: 3.2 * GIB,
  cost: 0.0005,
  currency: 'USD'
});

describe('provenance', () => {
  it('is there only for what has ended', () => {
    expect(provenanceOf(execution())).toBeNull();
    expect(provenanceOf(DONE)?.duration_s).toBeCloseTo(0.8);
  });

  it('reads in one line', () => {
    const provenance = provenanceOf(DONE);
    expect(provenance && describeProvenance(provenance)).toBe(
      'H100 · 0.8 s · mean 41% · peak 3.2 GiB · $0.0005'
    );
  });

  it('leaves out what is unknown, and says what failed and what was simulated', () => {
    const provenance = provenanceOf(
      execution({ ended_unix_s: NOW_S, succeeded: false, simulated: true, accelerators: 'A10' })
    );
    expect(provenance && describeProvenance(provenance)).toBe('A10 (simulated) · 1:32 · failed');
  });

  it('survives the way through a file', () => {
    const provenance = provenanceOf(DONE);
    expect(readProvenance(JSON.parse(JSON.stringify(provenance)))).toEqual(provenance);
  });

  it.each([
    undefined,
    null,
    'H100',
    [],
    {},
    { accelerators: 'H100' },
    { accelerators: 3, duration_s: 1 }
  ])('is not read out of %j', value => {
    expect(readProvenance(value)).toBeNull();
  });

  it('drops what a file has of another kind', () => {
    const read = readProvenance({
      accelerators: 'H100',
      duration_s: 1,
      cost: 'much',
      succeeded: 1
    });
    expect(read).toMatchObject({ cost: null, succeeded: null, mean_utilisation_percent: null });
  });
});

describe('describeRunning', () => {
  it('tells where, for how long, and how busy', () => {
    const load = {
      utilisation_percent: 86.2,
      memory_used_bytes: 61 * GIB,
      memory_total_bytes: 80 * GIB
    };
    expect(describeRunning(execution(), load, NOW_S)).toBe(
      'running on H100 ×8 for 1:32 · GPU 86% · 61 of 80 GiB'
    );
    const onCpu = execution({ accelerators: 'CPU' });
    expect(describeRunning(onCpu, load, NOW_S)).toContain('running on CPU for 1:32 · CPU 86%');
    const unknown = {
      utilisation_percent: null,
      memory_used_bytes: null,
      memory_total_bytes: null
    };
    expect(describeRunning(execution(), unknown, NOW_S)).toBe('running on H100 ×8 for 1:32');
  });
});

describe('advice', () => {
  it('is due when a GPU idles during a long local cell', () => {
    expect(adviceForLocalCell(session(), 61)).toContain('H100 is attached and idle');
  });

  it.each([
    ['soon', session(), 59],
    ['without a session', null, 600],
    ['while the session works', session({ kernel_state: 'executing' }), 600],
    ['while it opens', session({ phase: 'starting' }), 600],
    ['for the CPU', session({ accelerators: [accelerator({ shared: true })] }), 600]
  ])('is not due %s', (_, value, running_s) => {
    expect(adviceForLocalCell(value, running_s)).toBeNull();
  });

  it.each([
    [12, 61, true],
    [12, 59, false],
    [20, 600, false],
    [null, 600, false]
  ])('%s%% busy after %d s: %s', (utilisation, running_s, due) => {
    expect(adviceForGpuCell(utilisation, running_s) !== null).toBe(due);
  });
});

describe('usage', () => {
  it.each([
    ['%%gpu H100\nprint(1)', true],
    ['x = 1\n  %gpu attach', true],
    ['%load_ext nbgpu', true],
    ['from nbgpu import distributed', true],
    ['print("nbgpu")', false],
    ['%%gpus', false],
    ['', false]
  ])('%j uses GPUs: %s', (source, expected) => {
    expect(usesGpu(source)).toBe(expected);
  });

  it('puts %%gpu in front once', () => {
    expect(asGpuCell('x = 1')).toBe('%%gpu\nx = 1');
    expect(asGpuCell('%%gpu H100\nx = 1')).toBe('%%gpu H100\nx = 1');
  });

  it('knows cells that another magic has, and those that load it', () => {
    expect(hasOtherMagic('%%bash\nls')).toBe(true);
    expect(hasOtherMagic('%%gpu\nls')).toBe(false);
    expect(hasOtherMagic('%time 1')).toBe(false);
    expect(loadsMagics('%load_ext nbgpu')).toBe(true);
    expect(loadsMagics('%%gpu')).toBe(false);
  });
});
