import { describe, expect, it } from 'vitest';

import type { ISession } from '../state';
import {
  canKeep,
  describeBriefly,
  describeClosing,
  describeEnvironment,
  describeLoss,
  describeRequest,
  describeSession,
  describeUsage,
  describeWarning
} from '../words/sessions';
import { accelerator, execution, NOW_S, request, session } from './values';

describe('describeSession', () => {
  const executing = execution();
  const environment = { package_count: 214, own: true, done: 12, total: 80, current: 'torch' };
  const dead = (exit_code: number | null, signal: number | null, asked_for = false) =>
    session({
      kernel_state: 'dead',
      kernel_exit: { exit_code, signal, asked_for, ended_because: null }
    });
  const limit = 'at its memory limit of 64 GB, as it used 64.3 GB';
  const overfull = { exit_code: null, signal: 9, asked_for: false, ended_because: limit };

  it.each<[ISession, string, string]>([
    [session({ phase: 'queued' }), 'Queued', 'waiting'],
    [
      session({ kernel_state: 'dead', kernel_exit: overfull }),
      `The kernel was ended ${limit}`,
      'failed'
    ],
    [session({ phase: 'queued', queue_position: 2 }), 'Queued, 2nd', 'waiting'],
    [
      session({ phase: 'queued', queue_position: 2, queue_length: 5 }),
      'Queued, 2nd of 5',
      'waiting'
    ],
    [session({ phase: 'materialising', environment }), 'Installing 12 of 80 packages', 'waiting'],
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

describe('what an opening says besides', () => {
  it('tells what it waits for, and which package comes now', () => {
    const waiting = session({ phase: 'queued', detail: 'waiting for 4 of 8 H100' });
    expect(describeSession(waiting, NOW_S).hint).toBe('waiting for 4 of 8 H100');
    const environment = { package_count: 80, own: true, done: null, total: 80, current: 'torch' };
    const installing = session({ phase: 'materialising', environment });
    expect(describeSession(installing, NOW_S)).toMatchObject({
      text: 'Installing 0 of 80 packages',
      spoken: 'Installing packages',
      hint: 'torch'
    });
  });
});

describe('describeRequest', () => {
  it.each([
    [request({ phase: null }), 'Looking for a pool that has it', 'waiting'],
    [request({ queue_position: 1, queue_length: 3 }), 'Queued, 1st of 3', 'waiting'],
    [request({ phase: 'ready' }), 'Ready', 'idle'],
    [request({ problem: { message: 'no', hint: 'ask' } }), 'H100x8 was not granted', 'failed']
  ])('%#: reads %2$s', (value, text, tone) => {
    expect(describeRequest(value)).toMatchObject({ text, tone });
  });
});

describe('describeBriefly', () => {
  it.each<[Partial<ISession>, string]>([
    [{ phase: 'queued' }, 'queued'],
    [{ phase: 'starting' }, 'opening'],
    [{ phase: 'closed' }, 'closed'],
    [{}, 'idle'],
    [{ kernel_state: 'executing' }, 'running'],
    [{ kernel_state: 'starting' }, 'starting'],
    [{ kernel_state: 'dead' }, 'kernel ended'],
    [{ kernel_state: null }, 'idle']
  ])('%o is %s', (fields, text) => {
    expect(describeBriefly(session(fields))).toBe(text);
  });
});

describe('describeUsage', () => {
  const eight = Array.from({ length: 8 }, (_, index) => accelerator({ id: `g${index}` }));

  it('counts on between two states', () => {
    const value = session({
      accelerators: eight,
      accelerator_seconds: 664,
      cost: 0.4,
      cost_per_hour: 7.2,
      currency: 'USD'
    });
    expect(describeUsage(value, 0)).toBe('11.1 GPU-min, $0.40');
    expect(describeUsage(value, 10)).toBe('12.4 GPU-min, $0.42');
  });

  it.each([
    [5, '5 GPU-s'],
    [6600, '1.8 GPU-h']
  ])('%d accelerator seconds are %s', (accelerator_seconds, text) => {
    expect(describeUsage(session({ accelerator_seconds, accelerators: [] }), 9)).toBe(text);
  });

  it('speaks of no GPU where there is none', () => {
    const accelerators = [accelerator({ type: 'CPU', shared: true })];
    expect(describeUsage(session({ accelerators, accelerator_seconds: 90 }), 9)).toBe('1.5 min');
  });
});

describe('describeClosing', () => {
  const idle = { idle_close_s: 3600, closing_cause: 'idle' } as const;
  it.each<[Partial<ISession>, string | null]>([
    [{}, null],
    [{ closes_unix_s: NOW_S + 2900, closing_cause: 'lease' }, 'in 48 min'],
    [{ ...idle, closes_unix_s: NOW_S + 2880 }, 'in 48 min'],
    [{ idle_close_s: 3600, kernel_state: 'executing' }, 'after 60 min without work'],
    [{ ...idle, closes_unix_s: NOW_S - 30 }, 'in less than a minute'],
    [{ closes_unix_s: NOW_S + 3 * 86_400, closing_cause: 'lifetime' }, 'in 3 days'],
    [
      { idle_close_s: 3600, closes_unix_s: NOW_S + 7200, closing_cause: 'lifetime' },
      'after 60 min without work, at the latest in 2 h'
    ],
    [{ closes_unix_s: NOW_S + 300, closing_cause: 'budget' }, 'in 5 min, when its budget is spent']
  ])('%o: %s', (fields, text) => {
    expect(describeClosing(session(fields), NOW_S)).toBe(text);
  });
});

describe('describeWarning', () => {
  const idle: Partial<ISession> = {
    idle_close_s: 3600,
    idle_since_unix_s: NOW_S - 52 * 60,
    closes_unix_s: NOW_S + 8 * 60,
    closing_warn_unix_s: NOW_S - 120,
    closing_cause: 'idle'
  };

  it('says how long nothing was done, and when it ends', () => {
    expect(describeWarning(session(idle), NOW_S)).toBe('idle for 52 min, closes in 8 min');
    expect(describeSession(session(idle), NOW_S).text).toBe('Idle for 52 min, closes in 8 min');
    expect(canKeep(session(idle))).toBe(true);
  });

  it('says nothing before its time, or where no end is foreseen', () => {
    expect(describeWarning(session(idle), NOW_S - 121)).toBeNull();
    expect(describeWarning(session(), NOW_S)).toBeNull();
  });

  it('says what a click does not put off', () => {
    const old = session({ ...idle, closing_cause: 'lifetime' });
    expect(describeWarning(old, NOW_S)).toBe(
      'closes in 8 min: this pool keeps none open for longer'
    );
    expect(canKeep(old)).toBe(false);
  });
});

describe('describeEnvironment', () => {
  it('says whose it is, and what is in it', () => {
    const environment = { package_count: 214, own: true, done: null, total: null, current: null };
    expect(describeEnvironment(session({ environment }))).toBe('as in the notebook, 214 packages');
    expect(
      describeEnvironment(
        session({ environment: { ...environment, own: false, package_count: null } })
      )
    ).toBe('as found there, Python 3.11.2');
    expect(describeEnvironment(session({ python_version: null }))).toBeNull();
  });
});

describe('describeLoss', () => {
  it.each<[Partial<ISession>, string]>([
    [{}, 'Its accelerators are free for others then.'],
    [{ executions: 1 }, 'The variables of the 1 cell that ran in it are lost.'],
    [
      { executions: 3, kernel_state: 'executing' },
      'What runs in it ends, and the variables of the 3 cells that ran in it are lost.'
    ]
  ])('%o: %s', (fields, text) => {
    expect(describeLoss(session(fields))).toBe(text);
  });
});
