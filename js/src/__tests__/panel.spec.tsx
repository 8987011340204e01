import { act, cleanup, fireEvent, render, screen, within } from '@testing-library/react';
import { Signal } from '@lumino/signaling';
import * as React from 'react';
import { afterEach, describe, expect, it, vi } from 'vitest';

import type { IFeedStatus } from '../feed';
import { PanelContent } from '../sidebar/panel';
import type { INotebook, IPool } from '../state';
import {
  accelerator,
  execution,
  makePage,
  NOTEBOOK,
  NOW_S,
  offer,
  pageState,
  pool,
  request,
  sample,
  session,
  type IAsked
} from './values';

const never = new Signal<object, null>({});
let asked: IAsked[] = [];

function show(
  status: Partial<IFeedStatus>,
  notebook: INotebook | null = NOTEBOOK,
  answer?: (asked: IAsked) => Response
): ReturnType<typeof makePage>['page'] {
  vi.setSystemTime(NOW_S * 1000);
  const made = makePage(status, notebook, answer);
  asked = made.asked;
  render(
    <PanelContent
      page={made.page}
      changed={made.page.changed}
      sampled={never}
      onOpenCharts={() => undefined}
    />
  );
  return made.page;
}

function withPool(fields: Partial<IPool>): Partial<IFeedStatus> {
  return { state: pageState({ pools: [pool(fields)] }) };
}

const region = (name: string) => screen.getByRole('region', { name });
const press = (name: string, inside: HTMLElement) => {
  fireEvent.click(within(inside).getByRole('button', { name }));
};

afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

describe('before there is a state', () => {
  it('says what it waits for', () => {
    show({ state: null });
    expect(screen.getByRole('status').textContent).toBe('Connecting to the Jupyter server…');
  });

  it('says what the server is doing while it connects', () => {
    const progress = "Starting this machine's agent";
    show(withPool({ link: 'connecting', progress }));
    expect(screen.getByRole('status').textContent).toBe(`${progress}…`);
    expect(screen.queryByRole('radiogroup')).toBeNull();
  });
});

describe('what went wrong', () => {
  const problem = { message: 'the agent ended', hint: 'see `nbgpu agent status`' };

  it('is said on top where no pool is left, with a way to try again', async () => {
    show(withPool({ link: 'unreachable', problem }));
    const alert = screen.getByRole('alert');
    expect(alert.textContent).toContain('The agent ended.');
    expect(alert.querySelector('code')?.textContent).toBe('nbgpu agent status');
    press('Try again', alert);
    await vi.waitFor(() => {
      expect(asked).toEqual([{ method: 'POST', path: 'retry', body: { pool: 'this machine' } }]);
    });
  });

  it('is said at the pool where others are left', () => {
    const pools = [pool(), pool({ name: 'lab', embedded: false, link: 'unreachable', problem })];
    show({ state: pageState({ pools }) });
    expect(screen.queryByRole('alert')).toBeNull();
    const item = within(region('Pools')).getByText('The agent ended.').closest('li');
    expect(item?.dataset['pool']).toBe('lab');
    expect(region('digits.ipynb').textContent).toContain('What runs on lab is not known now.');
  });

  it('keeps what it knows in view while the Jupyter server is away', () => {
    show({ problem: { message: 'The Jupyter server does not answer', hint: null } });
    expect(screen.getByRole('alert')).toBeTruthy();
    expect(screen.getByRole('radiogroup', { name: 'Accelerators' })).toBeTruthy();
  });

  it('says so where the pools that were added cannot be had', () => {
    show({ state: pageState({ problem: { message: 'the file is not JSON', hint: null } }) });
    expect(screen.getByRole('alert').textContent).toContain('The file is not JSON.');
  });

  it('says why a command failed, until that is dismissed', async () => {
    const refuse = () =>
      new Response(JSON.stringify({ message: 'no such session', hint: null, reason: 'X' }), {
        status: 404
      });
    const sessions = [session()];
    show(withPool({ sessions }), NOTEBOOK, refuse);
    press('Detach', region('digits.ipynb'));
    const alert = await screen.findByRole('alert');
    expect(alert.textContent).toContain('No such session.');
    press('Dismiss', alert);
    expect(screen.queryByRole('alert')).toBeNull();
  });
});

describe('this notebook', () => {
  it('shows the session of the notebook in front, and not that of another', () => {
    const sessions = [
      session({ id: 's0', notebook_id: 'kernel-0', notebook_name: 'other.ipynb' }),
      session({ accelerators: [accelerator({ simulated: true })] })
    ];
    show(withPool({ sessions }));
    const section = region('digits.ipynb');
    expect(section.textContent).toContain('H100 on lab-1simulated');
    expect(within(section).getByRole('status').textContent).toBe('Idle');
    const list = screen.getByRole('list', { name: 'Sessions' });
    expect(within(list).getAllByRole('listitem')).toHaveLength(2);
  });

  it('takes the session that was attached last', () => {
    const sessions = [
      session({ id: 'a', attached_unix_s: NOW_S - 5, node_hostname: 'late' }),
      session({ id: 'b', attached_unix_s: NOW_S - 50, node_hostname: 'early' })
    ];
    show(withPool({ sessions }));
    expect(region('digits.ipynb').textContent).toContain('H100 on late');
  });

  it('does not take a session without a notebook for one of a notebook without a kernel', () => {
    const sessions = [session({ notebook_id: null, notebook_name: null })];
    show(withPool({ sessions }), { name: 'a.ipynb', kernelId: null });
    expect(region('a.ipynb').textContent).toContain('No kernel');
    expect(screen.getByRole('list', { name: 'Sessions' }).textContent).toContain(
      'not from a notebook'
    );
    expect(screen.getByText('The notebook needs a kernel first.')).toBeTruthy();
    expect(screen.getByRole('button', { name: 'Attach' })).toHaveProperty('disabled', true);
  });

  it('says how to open a session', () => {
    show({});
    const section = region('digits.ipynb');
    expect([...section.querySelectorAll('code')].map(code => code.textContent)).toEqual(['%%gpu']);
  });

  it('says so where there is no notebook', () => {
    show({}, null);
    expect(region('This notebook').textContent).toContain('No notebook is open');
    expect(screen.getByText('Open a notebook to attach it.')).toBeTruthy();
  });

  it('counts by the clock of the server, every second', () => {
    vi.useFakeTimers();
    const executing = execution({ execution_count: 2, started_unix_s: NOW_S + 500 });
    const sessions = [session({ kernel_state: 'executing', executing })];
    show({
      state: pageState({ pools: [pool({ sessions })], sent_unix_s: NOW_S + 510 }),
      clockOffset_s: 510
    });
    const section = region('digits.ipynb');
    expect(section.textContent).toContain('Running cell [2] for 0:10');
    expect(within(section).getByRole('status').textContent).toBe('Running cell [2]');
    act(() => {
      vi.advanceTimersByTime(2000);
    });
    expect(section.textContent).toContain('Running cell [2] for 0:12');
    expect(section.textContent).toContain('2 GPU-s');
    expect(within(section).getByRole('status').textContent).toBe('Running cell [2]');
  });

  it('can interrupt what runs only, and withdraw what is not there yet', async () => {
    show(
      withPool({ sessions: [session({ phase: 'queued', queue_position: 2, queue_length: 5 })] })
    );
    const section = region('digits.ipynb');
    const interrupt = within(section).getByRole('button', { name: 'Interrupt' });
    expect((interrupt as HTMLButtonElement).disabled).toBe(true);
    expect(section.textContent).toContain('Queued, 2nd of 5');
    press('Withdraw', section);
    await vi.waitFor(() => {
      expect(asked).toEqual([{ method: 'DELETE', path: 'sessions/s1', body: null }]);
    });
  });

  it('shows a request that waits once, whether or not its session is known', () => {
    const waiting = request({ queue_position: 1, queue_length: 2 });
    const sessions = [session({ phase: 'queued', queue_position: 1, queue_length: 2 })];
    show(withPool({ requests: [waiting] }));
    expect(screen.getAllByText('Queued, 1st of 2', { selector: '[aria-hidden]' })).toHaveLength(1);
    cleanup();
    show(withPool({ requests: [waiting], sessions }));
    const section = region('digits.ipynb');
    expect(
      within(section).getAllByText('Queued, 1st of 2', { selector: '[aria-hidden]' })
    ).toHaveLength(1);
  });

  it('shows the session that it has before the one that opens', () => {
    const sessions = [
      session({
        id: 'new',
        phase: 'queued',
        queue_position: 1,
        attached_unix_s: null,
        created_unix_s: NOW_S
      }),
      session({ id: 'old' })
    ];
    show(withPool({ sessions, requests: [request()] }));
    const states = within(region('digits.ipynb')).getAllByRole('status');
    expect(states.map(({ textContent }) => textContent)).toEqual(['Idle', 'Queued, 1st']);
  });

  it('withdraws a request, and takes note of one that failed', async () => {
    const failed = request({
      request_id: 'r2',
      phase: null,
      problem: { message: '8 accelerators requested, 2 there are', hint: null }
    });
    show(withPool({ requests: [request(), failed] }));
    const section = region('digits.ipynb');
    expect(within(section).getByRole('alert').textContent).toContain('8 accelerators requested');
    press('Dismiss', section);
    press('Withdraw', section);
    await vi.waitFor(() => {
      expect(asked.map(({ method, path }) => `${method} ${path}`)).toEqual([
        'DELETE requests/r2',
        'DELETE requests/r1'
      ]);
    });
  });
});

describe('the picker', () => {
  const offers = [
    offer({ simulated: true, price_per_hour: 2.1 }),
    offer({ type: 'A10', total: 2, free: 0, queued: 3, memory_bytes: 24e9 }),
    offer({ type: 'CPU', shared: true, memory_bytes: null })
  ];

  it('lists offers by type, memory, availability, price and simulation', () => {
    show(withPool({ offers }));
    const group = screen.getByRole('radiogroup', { name: 'Accelerators' });
    const rows = [...group.querySelectorAll('label')].map(label =>
      label.textContent.replace(/\s+/g, ' ').trim()
    );
    expect(rows).toEqual([
      'H100 80 GB simulated 8 of 8 free $2.10/h',
      'A10 24 GB busy, 3 waiting',
      'CPU lab-1 free'
    ]);
  });

  it('attaches what is chosen, as many as are chosen', async () => {
    show(withPool({ offers }));
    expect(screen.getByRole('radio', { name: /^H100/ })).toHaveProperty('checked', true);
    fireEvent.click(screen.getByRole('radio', { name: '4' }));
    expect(screen.getByRole('radio', { name: /^H100 ×4/ })).toHaveProperty('checked', true);
    fireEvent.click(screen.getByRole('button', { name: 'Attach' }));
    await vi.waitFor(() => {
      expect(asked).toEqual([
        {
          method: 'POST',
          path: 'sessions',
          body: {
            pool: 'this machine',
            spec: 'H100x4',
            notebook_id: 'kernel-1',
            notebook_name: 'digits.ipynb',
            python: null,
            working_folder: 'deep',
            new: false
          }
        }
      ]);
    });
  });

  it('says that a busy one is waited for, and offers no more than there are', () => {
    show(withPool({ offers }));
    fireEvent.click(screen.getByRole('radio', { name: '8' }));
    fireEvent.click(screen.getByRole('radio', { name: /^A10/ }));
    expect(screen.queryByRole('radio', { name: '8' })).toBeNull();
    expect(screen.getByRole('radio', { name: '2' })).toHaveProperty('checked', true);
    expect(screen.getByText('Waits in the queue until 2 are free.')).toBeTruthy();
  });

  it('says so where a pool offers nothing', () => {
    show(withPool({ offers: [] }));
    expect(region('Accelerators').textContent).toContain('offer nothing now');
  });
});

describe('GPUs', () => {
  const slices = [0, 1].map(index =>
    accelerator({ id: `mig-${index}`, index, type: 'H100-1g.10gb', mig_parent_id: 'gpu-9' })
  );

  function showGpus(accelerators: IPool['accelerators'], ...samples: ReturnType<typeof sample>[]) {
    vi.setSystemTime(NOW_S * 1000);
    const made = makePage(withPool({ accelerators, sessions: [session()] }));
    const { page } = made;
    page.history.add('this machine', samples);
    render(
      <PanelContent
        page={page}
        changed={page.changed}
        sampled={never}
        onOpenCharts={() => undefined}
      />
    );
    asked = made.asked;
    return region('GPUs');
  }

  it('shows one row each with its numbers, and what is unknown as a dash', () => {
    const second = accelerator({ id: 'gpu-1', index: 1 });
    const section = showGpus([accelerator(), second], sample());
    const rows = within(section).getAllByRole('listitem');
    expect(rows.map(row => row.textContent)).toEqual([
      '094%61 of 80 GiB61 of 80 GiB642 W · 66 °C',
      '1––––'
    ]);
    expect(rows[0]?.querySelector<HTMLElement>('.nbgpu-Memory-bar > span')?.style.width).toBe(
      '76.3%'
    );
  });

  it('shows what is wrong in the place of power and temperature', () => {
    const section = showGpus(
      [accelerator()],
      sample({ throttle_reasons: ['thermal limit', 'power limit'] })
    );
    expect(section.querySelector('.nbgpu-warn')?.textContent).toBe('thermal limit +1');
  });

  it('opens to show links, errors and processes', () => {
    const processes = [
      { pid: 42, session_id: 's1', memory_bytes: 2 ** 30, name: 'python', other_user: false }
    ];
    const section = showGpus([accelerator()], sample({ processes }));
    const row = within(section).getByRole('button', { name: /^GPU 0, H100: 94% busy/ });
    expect(row.getAttribute('aria-expanded')).toBe('false');
    fireEvent.click(row);
    expect(row.getAttribute('aria-expanded')).toBe('true');
    const facts = section.querySelector('dl')?.textContent;
    expect(facts).toContain('PCIe1.2 GB/s out, 35 kB/s in');
    expect(facts).toContain('digits.ipynb: python (42), 1.0 GiB');
    expect(facts).toContain('NVLink–, the driver of this GPU does not say');
  });

  it('shows MIG slices as those of their GPU', () => {
    const section = showGpus(slices);
    const list = within(section).getByRole('list', { name: 'MIG slices' });
    expect(within(list).getAllByRole('listitem')).toHaveLength(2);
  });

  it('marks what is simulated', () => {
    const section = showGpus([accelerator({ simulated: true })], sample({ simulated: true }));
    expect(section.textContent).toContain('H100simulated');
  });

  it('pauses, and fetches what it missed when it goes on', async () => {
    const section = showGpus([accelerator()], sample());
    press('Pause', section);
    expect(within(section).getByText('Paused')).toBeTruthy();
    expect(asked).toEqual([]);
    vi.setSystemTime((NOW_S + 30) * 1000);
    press('Go on', section);
    expect(within(section).queryByText('Paused')).toBeNull();
    await vi.waitFor(() => {
      expect(asked.map(({ path }) => path)).toEqual([
        'samples?history_s=32&step_s=0&pool=this%20machine'
      ]);
    });
  });

  it('fetches what a longer window shows', async () => {
    const section = showGpus([accelerator()], sample());
    const select = within(section).getByRole('combobox', { name: 'Time shown' });
    fireEvent.change(select, { target: { value: '3600' } });
    await vi.waitFor(() => {
      expect(asked.map(({ path }) => path)).toEqual([
        'samples?history_s=3600&step_s=5&pool=this%20machine'
      ]);
    });
  });
});

describe('sessions and pools', () => {
  it('opens to show what can be done with a session of another notebook', async () => {
    const sessions = [session({ id: 's9', notebook_id: 'kernel-9', notebook_name: 'far.ipynb' })];
    show(withPool({ sessions }));
    const section = region('Sessions');
    press('far.ipynb, H100: Idle', section);
    press('Attach here', section);
    await vi.waitFor(() => {
      expect(asked).toEqual([
        {
          method: 'POST',
          path: 'sessions/s9/attach',
          body: { notebook_id: 'kernel-1', notebook_name: 'digits.ipynb' }
        }
      ]);
    });
    press('Open notebook', section);
    expect((await screen.findByRole('alert')).textContent).toContain('cannot be found');
  });

  it('closes a session that has run nothing without a question', async () => {
    show(withPool({ sessions: [session()] }));
    press('Close', region('digits.ipynb'));
    await vi.waitFor(() => {
      expect(asked).toEqual([{ method: 'DELETE', path: 'sessions/s1', body: null }]);
    });
  });

  it('asks first where something is lost', async () => {
    show(withPool({ sessions: [session({ executions: 3 })] }));
    press('Close', region('digits.ipynb'));
    const dialog = await vi.waitFor(() => {
      const node = document.querySelector<HTMLElement>('.jp-Dialog');
      expect(node).not.toBeNull();
      return node as HTMLElement;
    });
    expect(dialog.textContent).toContain('The variables of the 3 cells that ran in it are lost.');
    expect(asked).toEqual([]);
    fireEvent.click(within(dialog).getByText('Cancel'));
    await vi.waitFor(() => {
      expect(document.querySelector('.jp-Dialog')).toBeNull();
    });
    expect(asked).toEqual([]);
  });

  it('lets only a pool that was added be removed', async () => {
    const lab = pool({
      name: 'lab',
      embedded: false,
      removable: true,
      address: 'gpu.lab.example:7443',
      latency_ms: 3.2
    });
    show({ state: pageState({ pools: [pool(), lab] }) });
    const section = region('Pools');
    press('this machine, embedded: 0.4 ms', section);
    expect(within(section).queryByRole('button', { name: 'Remove' })).toBeNull();
    press('lab, gpu.lab.example:7443: 3.2 ms', section);
    press('Remove', section);
    await vi.waitFor(() => {
      expect(asked).toEqual([{ method: 'DELETE', path: 'pools/lab', body: null }]);
    });
  });

  it('shows names from elsewhere as text', () => {
    const name = '<img src=x onerror="window.hacked=1">';
    const sessions = [session({ notebook_name: name, node_hostname: name, spec_text: name })];
    const lab = pool({
      name,
      embedded: false,
      address: name,
      sessions,
      offers: [offer({ type: name })],
      accelerators: [accelerator({ type: name, product_name: name })]
    });
    show({ state: pageState({ pools: [lab, pool({ requests: [request({ detail: name })] })] }) });
    expect(document.querySelector('img')).toBeNull();
    expect(document.body.textContent).toContain(name);
  });
});
