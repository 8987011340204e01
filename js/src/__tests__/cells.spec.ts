import type { CodeCell } from '@jupyterlab/cells';
import { describe, expect, it, vi } from 'vitest';

import { CellLine } from '../cells/line';
import { matchMissed, type INumberedCell } from '../cells/missed';
import { Runs } from '../cells/runs';
import { execution, NOW_S } from './values';

/** A cell whose kernel does what the test says. */
class FakeCell {
  isDisposed = false;
  private _hook: (message: { header: { msg_type: string } }) => boolean = () => true;
  private _end: () => void = () => undefined;
  outputArea: { future: unknown } = { future: null };

  ask(requestId: string): void {
    this.outputArea.future = {
      isDisposed: false,
      msg: { header: { msg_id: requestId } },
      registerMessageHook: (hook: FakeCell['_hook']) => {
        this._hook = hook;
      },
      done: new Promise<void>(resolve => (this._end = resolve))
    };
  }

  hear(msg_type: string): boolean {
    return this._hook({ header: { msg_type } });
  }

  async end(): Promise<void> {
    this._end();
    await Promise.resolve();
    await Promise.resolve();
  }

  get asCell(): CodeCell {
    return this as unknown as CodeCell;
  }
}

describe('Runs', () => {
  it('follows a run from the request to its end', async () => {
    const runs = new Runs();
    const cell = new FakeCell();
    const step = vi.fn();
    cell.ask('r1');
    runs.note(cell.asCell, step);
    expect(runs.active.map(run => [run.requestId, run.started_s])).toEqual([['r1', null]]);
    expect(cell.hear('status')).toBe(true);
    expect(runs.get('r1')?.started_s).toBeNull();
    cell.hear('execute_input');
    expect(runs.get('r1')?.started_s).not.toBeNull();
    expect(step).toHaveBeenCalledOnce();
    await cell.end();
    expect(step).toHaveBeenCalledTimes(2);
    expect(runs.active).toEqual([]);
    expect(runs.get('r1')?.cell).toBe(cell);
  });

  it('knows one run a cell, and forgets cells that are gone', () => {
    const runs = new Runs();
    const cell = new FakeCell();
    runs.note(cell.asCell, () => undefined);
    expect(runs.active).toEqual([]);
    cell.ask('r1');
    runs.note(cell.asCell, () => undefined);
    cell.ask('r2');
    runs.note(cell.asCell, () => undefined);
    expect(runs.get('r1')).toBeUndefined();
    expect(runs.active).toHaveLength(1);
    cell.isDisposed = true;
    runs.prune();
    expect(runs.active).toEqual([]);
  });
});

describe('CellLine', () => {
  it('says only what there is to say, as text', () => {
    const dismiss = vi.fn();
    const line = new CellLine(dismiss);
    expect(line.isHidden).toBe(true);
    line.say('<b>H100</b> · 0.8 s', null);
    expect(line.isHidden).toBe(false);
    expect(line.node.querySelector('b')).toBeNull();
    expect(line.node.querySelector<HTMLElement>('.nbgpu-CellLine-advice')?.hidden).toBe(true);
    line.say(null, 'the GPU idles');
    expect(line.node.querySelector('[role=status]')?.textContent).toBe('the GPU idles');
    line.node.querySelector('button')?.click();
    expect(dismiss).toHaveBeenCalledOnce();
    line.say(null, null);
    expect(line.isHidden).toBe(true);
  });
});

describe('matchMissed', () => {
  const cell = (executionCount: number, fields: Partial<INumberedCell> = {}): INumberedCell => ({
    executionCount,
    usesGpu: true,
    wasRunHere: false,
    keptRequestId: null,
    ...fields
  });
  const ended = (execution_count: number | null, started_s: number, request_id?: string) =>
    execution({
      execution_count,
      request_id: request_id ?? `r${started_s}`,
      started_unix_s: NOW_S + started_s,
      ended_unix_s: NOW_S + started_s + 1
    });
  const counts = (cells: INumberedCell[], ...executions: ReturnType<typeof ended>[]) =>
    matchMissed(cells, executions).map(([found, { request_id }]) => [
      found.executionCount,
      request_id
    ]);

  it('finds cells by their number', () => {
    expect(counts([cell(2), cell(3), cell(4)], ended(2, 1), ended(4, 5))).toEqual([
      [4, 'r5'],
      [2, 'r1']
    ]);
  });

  it('renews what is kept of the same execution', () => {
    expect(counts([cell(2, { keptRequestId: 'r1' })], ended(2, 1))).toEqual([[2, 'r1']]);
  });

  it.each([
    ['whose number two have', [cell(2), cell(2)]],
    ['that use no GPU', [cell(2, { usesGpu: false })]],
    ['that ran in this page, as something else', [cell(2, { wasRunHere: true })]],
    ['that tell of another execution', [cell(2, { keptRequestId: 'other' })]],
    ['while another cell tells of the execution', [cell(2), cell(9, { keptRequestId: 'r1' })]],
    ['that have not run', [cell(2, { executionCount: null })]]
  ])('passes over cells %s', (_, cells) => {
    expect(counts(cells, ended(2, 1))).toEqual([]);
  });

  it('passes over what ran before a restart', () => {
    expect(counts([cell(1), cell(2), cell(3)], ended(3, 1), ended(1, 5))).toEqual([[1, 'r5']]);
    expect(counts([cell(1)], ended(1, 1), ended(1, 5))).toEqual([[1, 'r5']]);
  });

  it('takes the last of several executions of one request', () => {
    const [pair] = matchMissed([cell(1)], [ended(1, 1, 'r'), ended(1, 5, 'r')]);
    expect(pair?.[1].started_unix_s).toBe(NOW_S + 5);
  });

  it('passes over executions without a number', () => {
    expect(counts([cell(1)], ended(null, 1))).toEqual([]);
  });
});
