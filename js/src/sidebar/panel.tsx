/** The GPU panel in the sidebar: the sections one below the other, and what keeps them from being shown. */

import { ReactWidget } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Signal, type ISignal } from '@lumino/signaling';
import * as React from 'react';

import { gpuIcon } from '../icon';
import { allSessions } from '../lookup';
import type { Page } from '../page';
import type { IPool, IPageState } from '../state';
import { Loading, Problem } from './elements';
import { GpusSection } from './gpus';
import { useNow, useSignal } from './hooks';
import { AcceleratorsSection } from './picker';
import { addPool } from './pool_dialog';
import { PoolsSection } from './pools';
import { SessionsSection } from './sessions';
import { ThisNotebookSection } from './this_notebook';

const TICK_MS = 1000;
const SLOW_TICK_MS = 30_000;

/** Follows the page while it can be seen, and costs nothing while it cannot. */
export class GpuPanel extends ReactWidget {
  constructor(
    private readonly page: Page,
    private readonly onOpenCharts: () => void
  ) {
    super();
    this.id = 'nbgpu-panel';
    this.addClass('nbgpu-Panel');
    this.title.icon = gpuIcon;
    this.title.caption = 'GPU';
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'GPU');
    this.page.changed.connect(this._onChanged);
    this.page.sampled.connect(this._onSampled);
  }

  override render(): React.JSX.Element {
    return (
      <PanelContent
        page={this.page}
        changed={this._changed}
        sampled={this._sampled}
        onOpenCharts={this.onOpenCharts}
      />
    );
  }

  override dispose(): void {
    this._hold?.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._follow();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._follow();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._hold?.dispose();
    this._hold = null;
  }

  private _follow(): void {
    this._hold ??= this.page.feed.hold();
    this._changed.emit(null);
    this._sampled.emit(null);
  }

  private readonly _onChanged = (): void => {
    if (this.isVisible) {
      this._changed.emit(null);
    }
  };

  private readonly _onSampled = (): void => {
    if (this.isVisible) {
      this._sampled.emit(null);
    }
  };

  private _hold: IDisposable | null = null;
  private _changed = new Signal<this, null>(this);
  private _sampled = new Signal<this, null>(this);
}

/** The whole content. */
export function PanelContent(props: {
  page: Page;
  changed: ISignal<unknown, unknown>;
  sampled: ISignal<unknown, unknown>;
  onOpenCharts: () => void;
}): React.JSX.Element {
  const { page, changed, sampled, onOpenCharts } = props;
  useSignal(changed);
  const { state, problem } = page.feed.status;
  const actions = page.actions;
  return (
    <>
      <div className="nbgpu-Panel-title">GPU</div>
      {problem !== null && <Problem problem={problem} onRetry={() => void actions.retry(null)} />}
      {actions.problem !== null && (
        <Problem
          problem={actions.problem}
          onDismiss={() => {
            actions.dismissProblem();
          }}
        />
      )}
      {state === null ? (
        problem === null && <Loading text="Connecting to the Jupyter server" />
      ) : (
        <div className={problem === null ? undefined : 'nbgpu-mod-stale'}>
          <Sections page={page} state={state} sampled={sampled} onOpenCharts={onOpenCharts} />
        </div>
      )}
    </>
  );
}

function Sections(props: {
  page: Page;
  state: IPageState;
  sampled: ISignal<unknown, unknown>;
  onOpenCharts: () => void;
}): React.JSX.Element {
  const { page, state, sampled, onOpenCharts } = props;
  const { actions } = page;
  const notebook = page.notebook.current;
  const sessions = allSessions(state);
  const isCounting = sessions.some(({ session }) => session.executing !== null);
  const ticked_s = useNow(isCounting ? TICK_MS : SLOW_TICK_MS);
  const offset_s = page.feed.status.clockOffset_s;
  const now_s = Math.max(ticked_s + offset_s, state.sent_unix_s);
  const isAnyConnected = state.pools.some(({ link }) => link === 'connected');
  return (
    <>
      {state.problem !== null && (
        <Problem problem={state.problem} onRetry={() => void actions.retry(null)} />
      )}
      {!isAnyConnected &&
        state.pools.map(pool => (
          <PoolNotice
            key={pool.name}
            pool={pool}
            isOnly={state.pools.length === 1}
            onRetry={() => void actions.retry(pool)}
          />
        ))}
      {isAnyConnected && (
        <>
          <ThisNotebookSection notebook={notebook} state={state} now_s={now_s} actions={actions} />
          <AcceleratorsSection pools={state.pools} notebook={notebook} actions={actions} />
          <GpusSection
            page={page}
            pools={state.pools}
            sampled={sampled}
            onOpenCharts={onOpenCharts}
          />
          <SessionsSection
            sessions={sessions}
            notebook={notebook}
            now_s={now_s}
            since_s={now_s - state.sent_unix_s}
            actions={actions}
          />
        </>
      )}
      <PoolsSection pools={state.pools} actions={actions} onAdd={() => void addPool(page.server)} />
    </>
  );
}

/** What stands between the page and a pool. */
function PoolNotice(props: {
  pool: IPool;
  isOnly: boolean;
  onRetry: () => void;
}): React.JSX.Element | null {
  const { pool, isOnly, onRetry } = props;
  switch (pool.link) {
    case 'connecting':
      return <Loading text={pool.progress ?? `Connecting to ${pool.name}`} />;
    case 'unreachable': {
      const problem = pool.problem ?? { message: `${pool.name} cannot be reached`, hint: null };
      const message = isOnly ? problem.message : `${pool.name}: ${problem.message}`;
      return <Problem problem={{ ...problem, message }} onRetry={onRetry} />;
    }
    case 'connected':
      return null;
  }
}
