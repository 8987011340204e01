/** The notebook's toolbar item: its accelerator, what that does, and a menu of what can be done. */

import type { NotebookPanel } from '@jupyterlab/notebook';
import { LabIcon, ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Menu } from '@lumino/widgets';
import * as React from 'react';

import { CommandId } from './command_ids';
import { gpuIcon } from './icon';
import { requestsOf, sessionOf } from './lookup';
import { notebookOf } from './notebook';
import type { Page } from './page';
import { describeAccelerators } from './words/accelerators';
import { describeBriefly, type Tone, describeSession } from './words/sessions';

/** What the toolbar says about a notebook. */
export interface IBrief {
  text: string;
  /** In full, for the tooltip and screen readers. */
  title: string;
  tone: Tone | null;
}

/** Null as kernel: the notebook has none. */
export function describeForToolbar(page: Page, kernelId: string | null): IBrief {
  const state = page.feed.isRunning ? page.state : null;
  const session = sessionOf(state, kernelId)?.session;
  if (session !== undefined) {
    const accelerators = describeAccelerators(session.accelerators) ?? session.spec_text;
    const { text, tone } = describeSession(session, page.now_s);
    return {
      text: [accelerators, describeBriefly(session)].filter(part => part !== '').join(' · '),
      title: `${accelerators}: ${text}`,
      tone
    };
  }
  const waiting = requestsOf(state, kernelId).find(({ request }) => request.problem === null);
  if (waiting !== undefined) {
    const text = `${waiting.request.spec_text || 'GPU'} · ${waiting.request.phase === 'queued' ? 'queued' : 'opening'}`;
    return { text, title: text, tone: 'waiting' };
  }
  return { text: 'GPU', title: 'No accelerator is attached to this notebook', tone: null };
}

export class SessionToolbarItem extends ReactWidget {
  private readonly _menu: Menu;

  constructor(
    private readonly page: Page,
    private readonly panel: NotebookPanel,
    commands: CommandRegistry
  ) {
    super();
    this.addClass('nbgpu-ToolbarItem');
    this._menu = new Menu({ commands });
    this._menu.title.label = 'GPU';
    for (const command of [
      CommandId.attach,
      CommandId.interrupt,
      CommandId.showStacks,
      CommandId.restart,
      CommandId.detach,
      CommandId.close,
      CommandId.openCharts
    ]) {
      if (command === CommandId.openCharts) {
        this._menu.addItem({ type: 'separator' });
      }
      this._menu.addItem({ command });
    }
    page.changed.connect(this._onChanged);
    panel.sessionContext.kernelChanged.connect(this._onChanged);
  }

  override dispose(): void {
    if (!this.isDisposed) {
      this.page.changed.disconnect(this._onChanged);
      this._menu.dispose();
      super.dispose();
    }
  }

  override render(): React.JSX.Element {
    const brief = describeForToolbar(this.page, notebookOf(this.panel).kernelId);
    return (
      <button
        type="button"
        className="jp-ToolbarButtonComponent nbgpu-ToolbarItem-button"
        title={brief.title}
        aria-label={`GPU: ${brief.title}`}
        aria-haspopup="menu"
        onClick={event => {
          const { left, bottom } = event.currentTarget.getBoundingClientRect();
          this._menu.open(left, bottom);
        }}
      >
        <LabIcon.resolveReact icon={gpuIcon} tag="span" className="nbgpu-Button-icon" />
        {brief.tone !== null && (
          <span className="nbgpu-Dot" data-tone={brief.tone} aria-hidden="true" />
        )}
        <span className="nbgpu-ToolbarItem-text">{brief.text}</span>
      </button>
    );
  }

  private readonly _onChanged = (): void => {
    this.update();
  };
}
