import { describe, expect, it } from 'vitest';

import {
  countsOf,
  describeAccelerators,
  describeAvailability,
  describePrice,
  holdsGpu,
  isSimulated,
  specOf
} from '../words/accelerators';
import {
  formatMemory,
  formatMoney,
  formatPercent,
  formatRate,
  formatUsed
} from '../words/quantities';
import {
  describeProcesses,
  describeReading,
  describeTroubles,
  factsOf,
  nameOfAccelerator
} from '../words/samples';
import { asSentence, ordinal } from '../words/sentences';
import { formatAge, formatDuration, formatMeasured, formatSpan } from '../words/time';
import { accelerator, GIB, offer, sample, session } from './values';

describe('formatDuration', () => {
  it.each([
    [0, '0:00'],
    [7.9, '0:07'],
    [92, '1:32'],
    [3599, '59:59'],
    [3600, '1:00:00'],
    [3723, '1:02:03'],
    [360_000, '100:00:00'],
    [-3, '0:00']
  ])('%d s is %s', (duration_s, text) => {
    expect(formatDuration(duration_s)).toBe(text);
  });
});

describe('formatMeasured', () => {
  it.each([
    [0.048, '48 ms'],
    [-1, '0 ms'],
    [0.096, '0.1 s'],
    [0.83, '0.8 s'],
    [9.96, '10 s'],
    [59.4, '59 s'],
    [59.6, '1:00'],
    [92, '1:32']
  ])('%d s is %s', (duration_s, text) => {
    expect(formatMeasured(duration_s)).toBe(text);
  });
});

describe('formatAge', () => {
  it.each([
    [0, 'less than a minute'],
    [60, '1 min'],
    [750, '12 min'],
    [3600, '1 h'],
    [47 * 3600, '47 h'],
    [48 * 3600, '2 days']
  ])('%d s is %s', (age_s, text) => {
    expect(formatAge(age_s)).toBe(text);
  });
});

describe('formatSpan', () => {
  it.each([
    [90, '90 s'],
    [3600, '60 min'],
    [9000, '2.5 h']
  ])('%d s is %s', (span_s, text) => {
    expect(formatSpan(span_s)).toBe(text);
  });
});

describe('quantities', () => {
  it.each([
    [80e9, '80 GB'],
    [141e9, '141 GB'],
    [4.8e9, '5 GB']
  ])('%d bytes are sold as %s', (memory_bytes, text) => {
    expect(formatMemory(memory_bytes)).toBe(text);
  });

  it.each([
    [61 * GIB, 80 * GIB, '61 of 80 GiB'],
    [0, 80 * GIB, '0 of 80 GiB'],
    [0.05 * GIB, 24 * GIB, '51 MiB of 24 GiB'],
    [1.2 * GIB, 24 * GIB, '1.2 of 24 GiB'],
    [3.2 * GIB, null, '3.2 GiB'],
    [null, 80 * GIB, '–']
  ])('%s of %s is %s', (used, total, text) => {
    expect(formatUsed(used, total)).toBe(text);
  });

  it.each([
    [null, '–'],
    [0, '0 B/s'],
    [999.6, '1.0 kB/s'],
    [35e3, '35 kB/s'],
    [1.2e9, '1.2 GB/s'],
    [2e12, '2000 GB/s']
  ])('%s bytes a second are %s', (rate, text) => {
    expect(formatRate(rate)).toBe(text);
  });

  it.each([
    [2.1, 'USD', '$2.10'],
    [0, 'USD', '$0.00'],
    [0.0005, 'USD', '$0.0005'],
    [0.00004, null, '<$0.0001'],
    [1.2, 'EUR', 'EUR 1.20']
  ])('%d %s is %s', (amount, currency, text) => {
    expect(formatMoney(amount, currency)).toBe(text);
  });

  it('tells unknown from nothing', () => {
    expect(formatPercent(null)).toBe('–');
    expect(formatPercent(0)).toBe('0%');
  });
});

describe('offers', () => {
  it.each([
    [offer({ free: 8 }), '8 of 8 free'],
    [offer({ free: 2, queued: 1 }), '2 of 8 free, 1 waiting'],
    [offer({ free: 0 }), 'busy'],
    [offer({ free: 0, queued: 3 }), 'busy, 3 waiting'],
    [offer({ type: 'CPU', shared: true, free: 0, total: 0 }), 'free']
  ])('%o', (value, text) => {
    expect(describeAvailability(value)).toBe(text);
  });

  it('names a price only where there is one', () => {
    expect(describePrice(offer())).toBeNull();
    expect(describePrice(offer({ price_per_hour: 2.1 }))).toBe('$2.10/h');
  });

  it('lets ask for what there is, and no more', () => {
    expect(countsOf(offer({ total: 8 }))).toEqual([1, 2, 4, 8]);
    expect(countsOf(offer({ total: 3 }))).toEqual([1, 2]);
    expect(countsOf(offer({ shared: true, total: 9 }))).toEqual([1]);
    expect(specOf(offer(), 8)).toBe('H100x8');
    expect(specOf(offer(), 1)).toBe('H100');
  });
});

describe('describeAccelerators', () => {
  it('counts each type once', () => {
    const a10 = accelerator({ type: 'A10' });
    expect(describeAccelerators([accelerator(), accelerator(), a10])).toBe('H100 ×2, A10');
    expect(describeAccelerators([a10])).toBe('A10');
    expect(describeAccelerators([])).toBeNull();
  });

  it('says what a session holds', () => {
    const simulated = accelerator({ simulated: true });
    expect(isSimulated(session({ accelerators: [accelerator(), simulated] }))).toBe(true);
    expect(isSimulated(session())).toBe(false);
    expect(holdsGpu(session({ accelerators: [accelerator({ shared: true })] }))).toBe(false);
    expect(holdsGpu(session())).toBe(true);
  });
});

describe('sentences', () => {
  it.each([
    ['the agent ended', 'The agent ended.'],
    ['it says:\n    no', 'It says:\n    no'],
    ['what now?', 'What now?']
  ])('%j reads %j', (message, text) => {
    expect(asSentence(message)).toBe(text);
  });

  it.each([
    [1, '1st'],
    [2, '2nd'],
    [3, '3rd'],
    [4, '4th'],
    [11, '11th'],
    [12, '12th'],
    [22, '22nd'],
    [113, '113th']
  ])('%d is %s', (number, text) => {
    expect(ordinal(number)).toBe(text);
  });
});

describe('samples', () => {
  it('lists what is wrong, worst first', () => {
    expect(describeTroubles(sample())).toEqual([]);
    const xid = { code: 79, time_unix_s: 0, meaning: 'GPU has fallen off the bus' };
    expect(
      describeTroubles(
        sample({ xid, ecc_errors_uncorrected: 1, throttle_reasons: ['thermal limit'] })
      )
    ).toEqual(['XID 79: GPU has fallen off the bus', '1 uncorrected ECC error', 'thermal limit']);
    expect(describeTroubles(sample({ xid: { ...xid, meaning: '' } }))).toEqual(['XID 79']);
  });

  it('reads a row aloud', () => {
    expect(describeReading(accelerator(), sample())).toBe(
      'GPU 0, H100: 94% busy, 61 of 80 GiB of memory, 642 W · 66 °C'
    );
    expect(describeReading(accelerator({ simulated: true }), null)).toBe(
      'GPU 0, H100: no reading yet'
    );
    expect(nameOfAccelerator(accelerator({ mig_parent_id: 'g', index: 2 }))).toBe('MIG slice 2');
  });

  it('gives the reason for what is unknown', () => {
    const facts = factsOf(accelerator(), sample());
    expect(facts).toContainEqual({ name: 'PCIe', value: '1.2 GB/s out, 35 kB/s in', reason: null });
    expect(facts.find(({ name }) => name === 'NVLink')).toEqual({
      name: 'NVLink',
      value: '–',
      reason: 'the driver of this GPU does not say'
    });
    const simulated = factsOf(
      accelerator({ simulated: true }),
      sample({ sm_clock_mhz: null, memory_clock_mhz: null })
    );
    expect(simulated.find(({ name }) => name === 'Clocks')?.reason).toContain('simulated');
  });

  it('names the session of a process, and says so where it has none', () => {
    const processes = [
      { pid: 42, session_id: 's1', memory_bytes: 3 * GIB, name: 'python', other_user: false },
      { pid: 43, session_id: null, memory_bytes: null, name: null, other_user: false },
      { pid: 0, session_id: null, memory_bytes: 2 * GIB, name: null, other_user: true }
    ];
    expect(describeProcesses(sample({ processes }), [session()])).toEqual([
      'digits.ipynb: python (42), 3.0 GiB',
      'no session: process (43)',
      'another user, 2.0 GiB'
    ]);
  });
});
