import { CodeCellModel, type CodeCell } from '@jupyterlab/cells';
import { describe, expect, it, vi } from 'vitest';

import { OutputFeeder, shows, type Output, type Outputs } from '../cells/outputs';
import { sessionsToAsk } from '../cells/replay';
import { Runs } from '../cells/runs';
import { pageState, pool, session } from './values';

function area(): Outputs {
  return CodeCellModel.defaultContentFactory.createOutputArea({ trusted: true });
}

function fed(...messages: [string, Record<string, unknown>][]): Output[] {
  const outputs = area();
  const feeder = new OutputFeeder(outputs);
  for (const [msg_type, content] of messages) {
    feeder.feed({ msg_type, content });
  }
  return outputs.toJSON();
}

const print = (text: string, name = 'stdout'): [string, Record<string, unknown>] => [
  'stream',
  { name, text }
];
const display = (
  text: string,
  display_id?: string,
  msg_type = 'display_data'
): [string, Record<string, unknown>] => [
  msg_type,
  { data: { 'text/plain': text }, metadata: {}, transient: { display_id } }
];
const texts = (outputs: Output[]) =>
  outputs.map(output =>
    output.output_type === 'stream'
      ? output['text']
      : (output['data'] as Record<string, unknown>)['text/plain']
  );

describe('OutputFeeder', () => {
  it('joins text, and has a line that is written over replaced', () => {
    expect(
      texts(fed(print('a'), print('b\n'), print('1\r'), print('2\n'), print('e', 'stderr')))
    ).toEqual(['ab\n2\n', 'e']);
  });

  it('updates every display of that name, and no other', () => {
    const update = display('new', 'x', 'update_display_data');
    expect(texts(fed(display('a', 'x'), display('b'), display('c', 'x'), update))).toEqual([
      'new',
      'b',
      'new'
    ]);
    expect(texts(fed(display('a', 'y'), update))).toEqual(['a']);
  });

  it('clears at once, or when something new comes, and then knows the old displays no more', () => {
    const update = display('new', 'x', 'update_display_data');
    expect(texts(fed(display('a', 'x'), ['clear_output', {}], display('b'), update))).toEqual([
      'b'
    ]);
    const wait: [string, Record<string, unknown>] = ['clear_output', { wait: true }];
    expect(texts(fed(display('a', 'x'), wait))).toEqual(['a']);
    expect(texts(fed(display('a', 'x'), wait, display('b', 'y'), update))).toEqual(['b']);
  });

  it('keeps errors and results as they came, and passes over what is not shown', () => {
    const error = { ename: 'E', evalue: 'v', traceback: ['t'] };
    const result = { data: { 'text/plain': '1' }, metadata: {}, execution_count: 3 };
    expect(fed(['execute_result', result], ['error', error], ['comm_msg', {}])).toEqual([
      { ...result, output_type: 'execute_result' },
      { ...error, output_type: 'error' }
    ]);
  });
});

describe('shows', () => {
  const a = fed(print('one\ntwo\n'), display('x'), print('three'));

  it.each([
    ['the same', a, true],
    ['less', [...fed(print('two\n')), ...fed(print('three'))], true],
    ['nothing', [], true],
    ['more', [...a, ...fed(display('y'))], false],
    ['text that goes on', fed(print('one\ntwo\nthree\n')), false],
    ['the same in another order', fed(display('x'), print('one\ntwo\n')), false],
    ['the same on another stream', fed(print('three', 'stderr')), false],
    ['another display', fed(display('z')), false]
  ])('tells of %s', (_, wanted, expected) => {
    expect(shows(a, wanted)).toBe(expected);
  });

  it('reads text in lines as a file has it', () => {
    const lines = { output_type: 'stream', name: 'stdout', text: ['one\n', 'two\n'] };
    expect(shows([lines] as Output[], fed(print('one\ntwo\n')))).toBe(true);
  });
});

describe('sessionsToAsk', () => {
  it('has the notebook’s own sessions, and those that it may have had', () => {
    const sessions = [
      session({ id: 'own' }),
      session({ id: 'lost', notebook_id: 'old', notebook_key: 'k', notebook_connected: false }),
      session({ id: 'used', notebook_id: 'old', notebook_key: 'k' }),
      session({ id: 'detached', notebook_id: null, notebook_key: 'k', notebook_connected: false }),
      session({ id: 'nameless', notebook_id: 'old', notebook_connected: false }),
      session({ id: 'opening', phase: 'queued' })
    ];
    expect(sessionsToAsk(pageState({ pools: [pool({ sessions })] }), 'kernel-1')).toEqual([
      'lost',
      'own'
    ]);
  });
});

describe('Runs that another page asked for', () => {
  const cell = (fields: object = {}) => ({ isDisposed: false, ...fields }) as unknown as CodeCell;

  it('are known once they are followed, unless the way to them was lost', () => {
    const runs = new Runs();
    const a = cell();
    const followed = runs.follow('r1', a);
    expect([runs.isKnown(a), runs.active.length]).toEqual([true, 1]);
    followed.lose();
    expect([runs.isKnown(a), runs.active, runs.lost]).toEqual([false, [], ['r1']]);
    runs.follow('r1', a).end();
    expect([runs.isKnown(a), runs.lost, runs.completed.length]).toEqual([true, [], 1]);
  });

  it('keep what they had when the way is lost after their end', () => {
    const runs = new Runs();
    const a = cell();
    const followed = runs.follow('r1', a);
    followed.end();
    followed.lose();
    expect([runs.isKnown(a), runs.lost]).toEqual([true, []]);
  });

  it('take the place of one whose kernel was lost', async () => {
    const runs = new Runs();
    const future = {
      isDisposed: false,
      msg: { header: { msg_id: 'r1' } },
      registerMessageHook: vi.fn(),
      done: Promise.reject(new Error('canceled'))
    };
    const a = cell({ outputArea: { future } });
    const step = vi.fn();
    runs.note(a, step);
    await vi.waitFor(() => {
      expect(step).toHaveBeenCalled();
    });
    expect([runs.isKnown(a), runs.lost, runs.completed]).toEqual([false, ['r1'], []]);
    runs.follow('r1', a);
    expect(runs.isKnown(a)).toBe(true);
  });
});
