/** The GPU panel in the left sidebar. */

import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import type { Feed, IFeedStatus } from './feed';
import { gpuIcon } from './icon';
import type { NotebookInFront } from './notebook';
import {
  AcceleratorsSection,
  Loading,
  NotebookSection,
  Problem,
  SessionsSection
} from './sections';
import type { INotebook, IProblem, ISession } from './state';

const TICK_MS = 1000;
const SLOW_TICK_MS = 30_000;

/** Shows what the feed brings. The feed runs while the panel is visible. */
export class GpuPanel extends ReactWidget {
  constructor(
    private readonly feed: Feed,
    private readonly notebook: NotebookInFront
  ) {
    super();
    this.id = 'nbgpu-panel';
    this.addClass('nbgpu-Panel');
    this.title.icon = gpuIcon;
    this.title.caption = 'GPU';
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'GPU');
  }

  override render(): React.JSX.Element {
    return (
      <UseSignal signal={this.feed.changed}>
        {() => (
          <UseSignal signal={this.notebook.changed}>
            {() => (
              <PanelContent
                status={this.feed.status}
                notebook={this.notebook.current}
                onRetry={() => void this.feed.retry()}
              />
            )}
          </UseSignal>
        )}
      </UseSignal>
    );
  }

  override dispose(): void {
    this.feed.dispose();
    this.notebook.dispose();
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.feed.start();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this.feed.start();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.feed.stop();
  }
}

/** The whole content, from values. */
export function PanelContent(props: {
  status: IFeedStatus;
  notebook: INotebook | null;
  onRetry: () => void;
}): React.JSX.Element {
  const { status, notebook, onRetry } = props;
  const state = status.state;
  const sessions = state?.pool?.sessions ?? [];
  const ticked_s = useNow(sessions.some(isCounting) ? TICK_MS : SLOW_TICK_MS);
  const now_s = Math.max(ticked_s + status.clockOffset_s, state?.sent_unix_s ?? 0);
  const problem: IProblem | null = status.problem ?? state?.problem ?? null;
  return (
    <>
      <div className="nbgpu-Panel-title">GPU</div>
      {problem !== null && <Problem problem={problem} onRetry={onRetry} />}
      {state?.pool != null ? (
        <div className={problem === null ? undefined : 'nbgpu-mod-stale'}>
          <NotebookSection notebook={notebook} sessions={sessions} now_s={now_s} />
          <AcceleratorsSection pool={state.pool} />
          <SessionsSection sessions={sessions} now_s={now_s} />
        </div>
      ) : (
        problem === null && <Loading text={state?.progress ?? 'Connecting to the Jupyter server'} />
      )}
    </>
  );
}

function isCounting(session: ISession): boolean {
  return session.executing !== null;
}

/** The time in seconds since 1970, renewed once an interval. */
function useNow(interval_ms: number): number {
  const [now_s, setNow] = React.useState(() => Date.now() / 1000);
  React.useEffect(() => {
    const timer = setInterval(() => {
      setNow(Date.now() / 1000);
    }, interval_ms);
    return () => {
      clearInterval(timer);
    };
  }, [interval_ms]);
  return now_s;
}
