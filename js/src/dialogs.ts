/** The questions that are asked before something is lost, and the texts that are shown in full. */

import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Widget } from '@lumino/widgets';

import type { ISession } from './state';
import { describeLoss, nameOf } from './words/sessions';

/** Asks before a session is closed; true: close it. */
export async function confirmClose(session: ISession): Promise<boolean> {
  const answer = await showDialog({
    title: `Close the session of ${nameOf(session)}?`,
    body: describeLoss(session),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Close' })],
    defaultButton: 0
  });
  return answer.button.accept;
}

/** Asks before a session's kernel is restarted; true: restart it. */
export async function confirmRestart(session: ISession): Promise<boolean> {
  const answer = await showDialog({
    title: `Restart the kernel of the session of ${nameOf(session)}?`,
    body: `${describeLoss({ ...session, executions: Math.max(1, session.executions) })} It keeps its accelerators.`,
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Restart' })],
    defaultButton: 0
  });
  return answer.button.accept;
}

/** Asks what becomes of the session that the notebook has; null: leave all as it is. */
export async function askAboutOld(
  session: ISession,
  wanted: string
): Promise<'keep' | 'close' | null> {
  const answer = await showDialog({
    title: `Attach to ${wanted} instead?`,
    body: `${nameOf(session)} is attached to ${session.spec_text || 'a session'} now. Kept open, that session goes on without the notebook and holds its accelerators. Closed, its variables are lost.`,
    buttons: [
      Dialog.cancelButton(),
      Dialog.okButton({ label: 'Keep it open' }),
      Dialog.warnButton({ label: 'Close it' })
    ],
    defaultButton: 1
  });
  if (!answer.button.accept) {
    return null;
  }
  return answer.button.label === 'Close it' ? 'close' : 'keep';
}

/** Shows a text as it is, in full. */
export async function showText(title: string, text: string): Promise<void> {
  const body = textBody(title, text);
  await showDialog({ title, body, buttons: [Dialog.okButton({ label: 'Close' })] });
}

/** Shows where code is; true: look again. */
export async function showStacks(title: string, text: string): Promise<boolean> {
  const answer = await showDialog({
    title,
    body: textBody(title, text),
    buttons: [Dialog.cancelButton({ label: 'Close' }), Dialog.okButton({ label: 'Look Again' })],
    defaultButton: 1
  });
  return answer.button.accept;
}

function textBody(title: string, text: string): Widget {
  const body = new Widget({ node: document.createElement('pre') });
  body.addClass('nbgpu-Logs');
  body.node.tabIndex = 0;
  body.node.setAttribute('aria-label', title);
  body.node.textContent = text;
  return body;
}
