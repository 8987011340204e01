/** Says as a notification that a session is about to be closed by itself, and offers to keep it. */

import { Notification } from '@jupyterlab/apputils';

import { allSessions } from './lookup';
import type { Page } from './page';
import type { ISession } from './state';
import { canKeep, describeWarning, nameOf } from './words/sessions';

const LOOK_MS = 1000;

interface IShown {
  id: string;
  message: string;
  closes_unix_s: number;
}

/** Follows the sessions for as long as the page lives, one notification for each end that comes near. */
export class ClosingWarnings {
  /** The shown notification and what it is about, by the session. */
  private readonly _shown = new Map<string, IShown>();

  constructor(private readonly page: Page) {
    page.changed.connect(() => {
      this._look();
    });
    window.setInterval(() => {
      this._look();
    }, LOOK_MS);
  }

  private _look(): void {
    const { state, now_s, feed } = this.page;
    if (state === null || !feed.isRunning) {
      return;
    }
    const due = new Set<string>();
    for (const { session } of allSessions(state)) {
      const text = describeWarning(session, now_s);
      if (text !== null && session.closes_unix_s !== null) {
        due.add(session.id);
        this._show(session, session.closes_unix_s, `${nameOf(session)}: ${text}.`);
      }
    }
    for (const [sessionId, { id }] of this._shown) {
      if (!due.has(sessionId)) {
        this._shown.delete(sessionId);
        Notification.dismiss(id);
      }
    }
  }

  private _show(session: ISession, closes_unix_s: number, message: string): void {
    const shown = this._shown.get(session.id);
    if (shown !== undefined && Math.abs(shown.closes_unix_s - closes_unix_s) < 1) {
      if (shown.message !== message && Notification.manager.has(shown.id)) {
        shown.message = message;
        Notification.update({ id: shown.id, message, autoClose: false });
      }
      return; // who dismissed it has read it
    }
    if (shown !== undefined) {
      Notification.dismiss(shown.id);
    }
    const keep = {
      label: 'Keep',
      caption: 'Do not close the session yet, though it does nothing',
      callback: () => void this.page.actions.keep(session)
    };
    const options = { autoClose: false as const, actions: canKeep(session) ? [keep] : [] };
    const id = Notification.warning(message, options);
    this._shown.set(session.id, { id, message, closes_unix_s });
  }
}
