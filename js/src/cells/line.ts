/** The line under a cell: where it ran or runs, and a word of advice that can be dismissed. */

import { closeIcon } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';

export class CellLine extends Widget {
  private readonly _text = document.createElement('span');
  private readonly _advice = document.createElement('div');
  private readonly _adviceText = document.createElement('span');

  /** `onDismiss` is called when a person has read the advice. */
  constructor(onDismiss: () => void) {
    super();
    this.addClass('nbgpu-CellLine');
    this._text.className = 'nbgpu-CellLine-text';
    this._advice.className = 'nbgpu-CellLine-advice';
    this._adviceText.setAttribute('role', 'status');
    const dismiss = document.createElement('button');
    dismiss.type = 'button';
    dismiss.className = 'nbgpu-IconButton';
    dismiss.title = 'Dismiss';
    dismiss.setAttribute('aria-label', 'Dismiss');
    closeIcon.element({ container: dismiss });
    dismiss.addEventListener('click', onDismiss);
    this._advice.append(this._adviceText, dismiss);
    this.node.append(this._text, this._advice);
    this.say(null, null);
  }

  /** Null: nothing to say. */
  say(text: string | null, advice: string | null): void {
    setText(this._text, text ?? '');
    setText(this._adviceText, advice ?? '');
    this._text.hidden = text === null;
    this._advice.hidden = advice === null;
    this.setHidden(text === null && advice === null);
  }
}

/** Leaves the page as it is where nothing changed, so that nothing is laid out or read aloud again. */
function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}
