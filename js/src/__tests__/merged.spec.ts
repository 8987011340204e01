import { describe, expect, it } from 'vitest';

import { mergeExecutions } from '../cells/merged';
import { describeProvenance, provenanceOf } from '../words/executions';
import { execution, GIB, NOW_S } from './values';

const PREPARING = { request_id: 'r1', started_unix_s: NOW_S - 100, ended_unix_s: NOW_S - 99.5 };
const CALL = {
  request_id: 'r1',
  started_unix_s: NOW_S - 90,
  ended_unix_s: NOW_S - 78,
  accelerators: 'H100 ×4',
  mean_utilisation_percent: 60,
  peak_memory_bytes: 3 * GIB,
  cost: 0.5,
  succeeded: true
};
const CLEARING = {
  request_id: 'r1',
  started_unix_s: NOW_S - 78,
  ended_unix_s: NOW_S - 78,
  mean_utilisation_percent: 0,
  cost: 0.0,
  succeeded: true
};

describe('the executions of one cell', () => {
  it('read as one, whose time is that of the call and not of what cleared up behind it', () => {
    const merged = mergeExecutions([
      execution({ ...CLEARING }),
      execution({ ...PREPARING, succeeded: true }),
      execution({ ...CALL })
    ]);
    expect(merged).toHaveLength(1);
    const provenance = merged[0] === undefined ? null : provenanceOf(merged[0]);
    expect(provenance).not.toBeNull();
    expect(provenance && describeProvenance(provenance)).toBe(
      'H100 ×4 · 13 s · mean 60% · peak 3.0 GiB · $0.50'
    );
    expect(provenance?.succeeded).toBe(true);
    expect(provenance?.started_unix_s).toBe(NOW_S - 100);
  });

  it('have failed if one has, and have not ended while one runs', () => {
    const [failed] = mergeExecutions([
      execution({ ...CALL, succeeded: false }),
      execution({ ...CLEARING })
    ]);
    expect(failed?.succeeded).toBe(false);
    const [running] = mergeExecutions([
      execution({ ...CALL }),
      execution({ ...CLEARING, ended_unix_s: null, succeeded: null })
    ]);
    expect(running?.ended_unix_s).toBeNull();
  });

  it('are not mixed with those of others', () => {
    const other = execution({ request_id: 'r2', started_unix_s: NOW_S - 200 });
    const mine = execution({ ...CALL });
    expect(mergeExecutions([mine, other])).toEqual([other, mine]);
  });
});
