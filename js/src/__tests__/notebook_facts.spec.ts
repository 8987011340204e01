import { describe, expect, it } from 'vitest';

import { adviceForLocalCell } from '../cells/advice';
import type { IDifference, ISharedVariables } from '../state';
import { describeNotebookEnvironment, describeVariables, differs } from '../words/notebook_facts';
import { accelerator, session } from './values';

const IN_SYNC: IDifference = {
  package_count: 0,
  packages: [],
  file_count: 0,
  files: [],
  variables: []
};
const BUILT = { package_count: 214, own: true, done: null, total: null, current: null };

describe('environment', () => {
  const textOf = (difference: IDifference | null, environment = BUILT) =>
    describeNotebookEnvironment(session({ environment, difference }))?.text;

  it('is in sync only once the notebook has said so', () => {
    expect(textOf(null)).toBe('as in the notebook, 214 packages');
    expect(textOf(IN_SYNC)).toBe('in sync, 214 packages');
    expect(differs(IN_SYNC)).toBe(false);
    expect(differs(null)).toBe(false);
  });

  it('names the first of what differs, and lists all that is known', () => {
    const difference = {
      ...IN_SYNC,
      package_count: 4,
      packages: [
        { name: 'mine', before: '1.0', now: '1.0' },
        { name: 'rich', before: null, now: '14.1' },
        { name: 'torch', before: '2.12', now: '2.13' }
      ],
      file_count: 1,
      files: ['nearby.py'],
      variables: ['HF_HOME']
    };
    expect(differs(difference)).toBe(true);
    const found = describeNotebookEnvironment(session({ environment: BUILT, difference }));
    expect(found?.text).toBe(
      '4 packages differ: mine 1.0, reinstalled, …; 1 file changed; 1 environment variable set'
    );
    expect(found?.details).toEqual([
      'mine 1.0, reinstalled',
      'rich 14.1, new',
      'torch 2.12 → 2.13',
      'and 1 more package',
      'nearby.py',
      '$HF_HOME'
    ]);
  });

  it('reads well for one package, and for one that is gone', () => {
    const packages = [{ name: 'torch', before: '2.12', now: null }];
    expect(textOf({ ...IN_SYNC, package_count: 1, packages })).toBe(
      '1 package differs: torch 2.12, removed'
    );
  });

  it('says how far a sync is', () => {
    const environment = {
      ...BUILT,
      done: 1,
      total: 3,
      current: 'torch'
    } as unknown as typeof BUILT;
    expect(textOf(IN_SYNC, environment)).toBe('installing 1 of 3: torch');
  });
});

describe('variables', () => {
  const NONE: ISharedVariables = {
    sent_count: 0,
    sent: [],
    sent_bytes: 0,
    handle_count: 0,
    handles: []
  };
  const textOf = (variables: ISharedVariables | null) =>
    describeVariables(session({ variables }))?.text;

  it('are counted with their size, where the notebook has said so', () => {
    expect(textOf(null)).toBeUndefined();
    expect(textOf(NONE)).toBe('none sent');
    expect(textOf({ ...NONE, handle_count: 2 })).toBe('2 handles');
    expect(textOf({ ...NONE, sent_count: 3, sent_bytes: 2048, handle_count: 1 })).toBe(
      '3 sent (2 KiB), 1 handle'
    );
  });
});

describe('an idle GPU beside a local cell', () => {
  const held = session({ accelerators: [accelerator({ type: 'H100' })] });

  it('is said after the time that was chosen', () => {
    expect(adviceForLocalCell(held, 5)).toBeNull();
    expect(adviceForLocalCell(held, 5, 5)).toContain('attached and idle');
  });
});
