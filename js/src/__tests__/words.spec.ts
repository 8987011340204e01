import { describe, expect, it } from 'vitest';

import type { ISession } from '../state';
import {
  asSentence,
  describeAccelerators,
  describeAvailability,
  describeSession,
  formatAge,
  formatDuration,
  formatMemory,
  isSimulated
} from '../words';
import { accelerator, NOW_S, offer, session } from './values';

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

describe('formatMemory', () => {
  it.each([
    [80e9, '80 GB'],
    [141e9, '141 GB'],
    [4.8e9, '5 GB']
  ])('%d bytes are %s', (memory_bytes, text) => {
    expect(formatMemory(memory_bytes)).toBe(text);
  });
});

describe('describeAvailability', () => {
  it.each([
    [offer({ free: 8 }), '8 of 8 free'],
    [offer({ free: 2, queued: 1 }), '2 of 8 free, 1 waiting'],
    [offer({ free: 0 }), 'busy'],
    [offer({ free: 0, queued: 3 }), 'busy, 3 waiting'],
    [offer({ type: 'CPU', shared: true, free: 0, total: 0 }), 'free']
  ])('%o', (value, text) => {
    expect(describeAvailability(value)).toBe(text);
  });
});

describe('describeAccelerators', () => {
  it('counts each type once', () => {
    const a10 = accelerator({ type: 'A10' });
    expect(describeAccelerators([accelerator(), accelerator(), a10])).toBe('H100 ×2, A10');
    expect(describeAccelerators([a10])).toBe('A10');
    expect(describeAccelerators([])).toBeNull();
  });
});

describe('isSimulated', () => {
  it('is said as soon as one of them is', () => {
    const simulated = accelerator({ simulated: true });
    expect(isSimulated(session({ accelerators: [accelerator(), simulated] }))).toBe(true);
    expect(isSimulated(session())).toBe(false);
    expect(isSimulated(session({ accelerators: [] }))).toBe(false);
  });
});

describe('asSentence', () => {
  it.each([
    ['the agent ended', 'The agent ended.'],
    ['it says:\n    no', 'It says:\n    no'],
    ['what now?', 'What now?']
  ])('%j reads %j', (message, text) => {
    expect(asSentence(message)).toBe(text);
  });
});

describe('describeSession', () => {
  const executing = { execution_count: 7, started_unix_s: NOW_S - 92 };
  const dead = (exit_code: number | null, signal: number | null, asked_for = false) =>
    session({ kernel_state: 'dead', kernel_exit: { exit_code, signal, asked_for } });

  it.each<[ISession, string, string]>([
    [session({ phase: 'queued' }), 'Queued', 'waiting'],
    [session({ phase: 'placing' }), 'Getting its accelerators', 'waiting'],
    [session({ phase: 'materialising' }), 'Building the environment', 'waiting'],
    [session({ phase: 'starting' }), 'Starting the kernel', 'waiting'],
    [session({ phase: 'closed' }), 'Closed', 'idle'],
    [session({ phase: null }), 'In a state that this version does not know', 'waiting'],
    [session({ kernel_state: null }), 'Ready', 'idle'],
    [session({ kernel_state: 'starting' }), 'Starting the kernel', 'waiting'],
    [session(), 'Idle', 'idle'],
    [session({ last_active_unix_s: NOW_S - 750 }), 'Idle for 12 min', 'idle'],
    [session({ kernel_state: 'executing', executing }), 'Running cell [7] for 1:32', 'busy'],
    [
      session({ kernel_state: 'executing', executing: { ...executing, execution_count: null } }),
      'Running for 1:32',
      'busy'
    ],
    [session({ kernel_state: 'executing' }), 'Running', 'busy'],
    [dead(3, null), 'The kernel ended with exit code 3', 'failed'],
    [dead(0, null), 'The kernel ended with exit code 0', 'failed'],
    [dead(null, 9), 'The kernel was killed by SIGKILL', 'failed'],
    [dead(null, 34), 'The kernel was killed by signal 34', 'failed'],
    [dead(null, 15, true), 'The kernel was ended', 'failed'],
    [dead(null, null), 'The kernel ended on its own', 'failed'],
    [session({ kernel_state: 'dead' }), 'The kernel was ended', 'failed']
  ])('%#: reads %2$s', (value, text, tone) => {
    expect(describeSession(value, NOW_S)).toMatchObject({ text, tone });
  });

  it('tells a screen reader nothing that changes every second', () => {
    const value = session({ kernel_state: 'executing', executing });
    expect(describeSession(value, NOW_S).spoken).toBe('Running cell [7]');
    expect(describeSession(value, NOW_S + 60).spoken).toBe('Running cell [7]');
  });

  it('says what to do about a dead kernel only', () => {
    expect(describeSession(dead(1, null), NOW_S).hint).toContain('%%gpu');
    expect(describeSession(session(), NOW_S).hint).toBeNull();
  });
});
