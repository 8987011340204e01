/** The small elements that all sections are made of: headings, marks, problems, buttons, lists of facts. */

import {
  LabIcon,
  caretDownIcon,
  caretRightIcon,
  closeIcon,
  refreshIcon
} from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IProblem } from '../state';
import { asSentence } from '../words/sentences';
import type { Tone } from '../words/sessions';

/** A section of the panel with its heading; `note` stands at the right of it. */
export function Section(props: {
  id: string;
  title: string;
  note?: React.ReactNode;
  children: React.ReactNode;
}): React.JSX.Element {
  const headingId = `nbgpu-${props.id}-heading`;
  return (
    <section className="nbgpu-Section" data-section={props.id} aria-labelledby={headingId}>
      <div className="nbgpu-Section-header">
        <h2 id={headingId} title={props.title}>
          {props.title}
        </h2>
        {props.note !== undefined && <div className="nbgpu-note">{props.note}</div>}
      </div>
      {props.children}
    </section>
  );
}

export function Dot(props: { tone: Tone }): React.JSX.Element {
  return <span className="nbgpu-Dot" data-tone={props.tone} aria-hidden="true" />;
}

export function SimulatedMark(): React.JSX.Element {
  return (
    <span
      className="nbgpu-Mark"
      title="A CPU worker that answers to this name: no GPU computes here"
    >
      simulated
    </span>
  );
}

/** Text in which backticks mark commands. */
export function Hint(props: { text: string }): React.JSX.Element {
  const parts = props.text.split('`');
  return (
    <p className="nbgpu-Hint">
      {parts.map((part, index) =>
        index % 2 === 1 ? <code key={index}>{part}</code> : <span key={index}>{part}</span>
      )}
    </p>
  );
}

/** A button with a word on it. */
export function TextButton(props: {
  label: string;
  onClick: () => void;
  /** What happens, where the word does not say it. */
  title?: string;
  icon?: LabIcon;
  isPrimary?: boolean;
  isDisabled?: boolean;
}): React.JSX.Element {
  const { label, onClick, title, icon, isPrimary = false, isDisabled = false } = props;
  return (
    <button
      type="button"
      className={`jp-mod-styled nbgpu-Button ${isPrimary ? 'nbgpu-mod-primary' : ''}`}
      onClick={onClick}
      title={title}
      disabled={isDisabled}
    >
      {icon !== undefined && (
        <LabIcon.resolveReact icon={icon} tag="span" className="nbgpu-Button-icon" />
      )}
      {label}
    </button>
  );
}

/** A button that is an icon. */
export function IconButton(props: {
  icon: LabIcon;
  label: string;
  onClick: () => void;
  isPressed?: boolean;
}): React.JSX.Element {
  return (
    <button
      type="button"
      className="nbgpu-IconButton"
      onClick={props.onClick}
      title={props.label}
      aria-label={props.label}
      aria-pressed={props.isPressed}
    >
      <LabIcon.resolveReact icon={props.icon} tag="span" />
    </button>
  );
}

/** What went wrong, what a person can do, and a button that tries again or takes note. */
export function Problem(props: {
  problem: IProblem;
  onRetry?: () => void;
  onDismiss?: () => void;
}): React.JSX.Element {
  const { problem, onRetry, onDismiss } = props;
  return (
    <div className="nbgpu-Problem" role="alert">
      <p className="nbgpu-Problem-message">{asSentence(problem.message)}</p>
      {problem.hint !== null && problem.hint !== '' && <Hint text={asSentence(problem.hint)} />}
      {onRetry !== undefined && (
        <TextButton label="Try again" icon={refreshIcon} onClick={onRetry} />
      )}
      {onDismiss !== undefined && (
        <TextButton label="Dismiss" icon={closeIcon} onClick={onDismiss} />
      )}
    </div>
  );
}

/** What is happening while there is nothing to show yet. */
export function Loading(props: { text: string }): React.JSX.Element {
  return (
    <div className="nbgpu-Loading" role="status">
      <span className="nbgpu-Spinner" aria-hidden="true" />
      {props.text}…
    </div>
  );
}

/** Nothing is there, and what to do about it. */
export function Empty(props: { text: string }): React.JSX.Element {
  return (
    <div className="nbgpu-Empty">
      <Hint text={props.text} />
    </div>
  );
}

export interface IFactRow {
  name: string;
  value: React.ReactNode;
  /** Shown on hover: why a value is unknown. */
  title?: string | null;
}

/** Names and values in two columns. */
export function Facts(props: { rows: readonly IFactRow[] }): React.JSX.Element {
  return (
    <dl className="nbgpu-Facts">
      {props.rows.map(({ name, value, title }) => (
        <React.Fragment key={name}>
          <dt>{name}</dt>
          <dd title={title ?? undefined}>
            {value}
            {title != null && <span className="nbgpu-spokenOnly">, {title}</span>}
          </dd>
        </React.Fragment>
      ))}
    </dl>
  );
}

/** Made once: JupyterLab's icons take longer to render than a row of live numbers. */
const [OPENED, CLOSED] = [caretDownIcon, caretRightIcon].map(icon => (
  <LabIcon.resolveReact key={icon.name} icon={icon} tag="span" className="nbgpu-Disclosure-caret" />
));

/** A row that opens to show more below it. */
export function Disclosure(props: {
  /** Read in place of the row's content. */
  label: string;
  className: string;
  isOpen: boolean;
  onToggle: () => void;
  summary: React.ReactNode;
  children: React.ReactNode;
}): React.JSX.Element {
  const { label, className, isOpen, onToggle, summary, children } = props;
  return (
    <>
      <button
        type="button"
        className={`nbgpu-Disclosure ${className}`}
        aria-expanded={isOpen}
        aria-label={label}
        onClick={onToggle}
      >
        {isOpen ? OPENED : CLOSED}
        {summary}
      </button>
      {isOpen && <div className="nbgpu-Disclosure-content">{children}</div>}
    </>
  );
}
