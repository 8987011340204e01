import { act, cleanup, fireEvent, render, screen, within } from '@testing-library/react';
import * as React from 'react';
import { afterEach, describe, expect, it, vi } from 'vitest';

import type { IFeedStatus } from '../feed';
import { PanelContent } from '../panel';
import type { INotebook } from '../state';
import { accelerator, NOW_S, offer, pageState, pool, session } from './values';

const NOTEBOOK: INotebook = { name: 'digits.ipynb', kernelId: 'kernel-1' };

function show(
  status: Partial<IFeedStatus>,
  notebook: INotebook | null = NOTEBOOK,
  onRetry: () => void = () => undefined
): void {
  vi.setSystemTime(NOW_S * 1000);
  const whole: IFeedStatus = { state: pageState(), problem: null, clockOffset_s: 0, ...status };
  render(<PanelContent status={whole} notebook={notebook} onRetry={onRetry} />);
}

afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

describe('PanelContent', () => {
  it('says what it waits for before the first state', () => {
    show({ state: null });
    expect(screen.getByRole('status').textContent).toBe('Connecting to the Jupyter server…');
  });

  it('says what the server is doing while it connects', () => {
    const progress = "Starting this machine's agent";
    show({ state: pageState({ link: 'connecting', pool: null, progress }) });
    expect(screen.getByRole('status').textContent).toBe(`${progress}…`);
  });

  it('lists offers by type, memory, availability and simulation', () => {
    const offers = [
      offer({ simulated: true }),
      offer({ type: 'CPU', shared: true, memory_bytes: null })
    ];
    show({ state: pageState({ pool: pool({ offers }) }) });
    const items = within(screen.getByRole('list', { name: 'Accelerators' })).getAllByRole(
      'listitem'
    );
    expect(items.map(item => item.textContent)).toEqual([
      'H10080 GB8 of 8 freesimulated',
      'CPUsharedfree'
    ]);
  });

  it('shows the session of the notebook in front, and not that of another', () => {
    const sessions = [
      session({ id: 's0', notebook_id: 'kernel-0', notebook_name: 'other.ipynb' }),
      session({ accelerators: [accelerator({ simulated: true })] })
    ];
    show({ state: pageState({ pool: pool({ sessions }) }) });
    const section = screen.getByRole('region', { name: 'digits.ipynb' });
    expect(section.textContent).toContain('H100 on lab-1simulated');
    expect(within(section).getByRole('status').textContent).toBe('Idle');
    const list = screen.getByRole('list', { name: 'Sessions' });
    expect(within(list).getAllByRole('listitem')).toHaveLength(2);
  });

  it('does not take a session without a notebook for one of a notebook without a kernel', () => {
    const sessions = [session({ notebook_id: null, notebook_name: null })];
    show({ state: pageState({ pool: pool({ sessions }) }) }, { name: 'a.ipynb', kernelId: null });
    expect(screen.getByRole('region', { name: 'a.ipynb' }).textContent).toContain('No kernel');
    expect(screen.getByRole('list', { name: 'Sessions' }).textContent).toContain(
      'not from a notebook'
    );
  });

  it('says how to open a session, with the commands as code', () => {
    show({});
    const section = screen.getByRole('region', { name: 'digits.ipynb' });
    expect([...section.querySelectorAll('code')].map(code => code.textContent)).toEqual([
      '%%gpu',
      '%gpu attach'
    ]);
  });

  it('says so where there is no notebook', () => {
    show({}, null);
    expect(screen.getByRole('region', { name: 'This notebook' }).textContent).toContain(
      'No notebook is open'
    );
  });

  it('shows what went wrong, what to do, and tries again on demand', () => {
    const onRetry = vi.fn();
    const problem = { message: 'the agent ended', hint: 'see `nbgpu agent status`' };
    show({ state: pageState({ link: 'unreachable', pool: null, problem }) }, NOTEBOOK, onRetry);
    const alert = screen.getByRole('alert');
    expect(alert.textContent).toContain('The agent ended.');
    expect(alert.querySelector('code')?.textContent).toBe('nbgpu agent status');
    fireEvent.click(within(alert).getByRole('button', { name: 'Try again' }));
    expect(onRetry).toHaveBeenCalledOnce();
  });

  it('keeps what it knows in view while the Jupyter server is away', () => {
    show({ problem: { message: 'The Jupyter server does not answer', hint: null } });
    expect(screen.getByRole('alert')).toBeTruthy();
    expect(screen.getByRole('list', { name: 'Accelerators' })).toBeTruthy();
  });

  it('counts by the clock of the server, every second', () => {
    vi.useFakeTimers();
    const executing = { execution_count: 2, started_unix_s: NOW_S + 500 };
    const sessions = [session({ kernel_state: 'executing', executing })];
    show({
      state: pageState({ pool: pool({ sessions }), sent_unix_s: NOW_S + 510 }),
      clockOffset_s: 510
    });
    const section = screen.getByRole('region', { name: 'digits.ipynb' });
    expect(section.textContent).toContain('Running cell [2] for 0:10');
    act(() => {
      vi.advanceTimersByTime(2000);
    });
    expect(section.textContent).toContain('Running cell [2] for 0:12');
  });
});
