/** What the panel shows, from values alone: the notebook's session, the accelerators, the sessions. */

import { LabIcon, refreshIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { INotebook, IOffer, IPool, IProblem, ISession } from './state';
import {
  asSentence,
  describeAccelerators,
  describeAvailability,
  describeSession,
  formatMemory,
  isSimulated,
  type Tone
} from './words';

/** A section of the panel with its heading. */
function Section(props: {
  id: string;
  title: string;
  note?: string;
  children: React.ReactNode;
}): React.JSX.Element {
  const headingId = `nbgpu-${props.id}-heading`;
  return (
    <section className="nbgpu-Section" data-section={props.id} aria-labelledby={headingId}>
      <div className="nbgpu-Section-header">
        <h2 id={headingId}>{props.title}</h2>
        {props.note !== undefined && <span className="nbgpu-note">{props.note}</span>}
      </div>
      {props.children}
    </section>
  );
}

function Dot(props: { tone: Tone }): React.JSX.Element {
  return <span className="nbgpu-Dot" data-tone={props.tone} aria-hidden="true" />;
}

function SimulatedMark(): React.JSX.Element {
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
function Hint(props: { text: string }): React.JSX.Element {
  const parts = props.text.split('`');
  return (
    <p className="nbgpu-Hint">
      {parts.map((part, index) =>
        index % 2 === 1 ? <code key={index}>{part}</code> : <span key={index}>{part}</span>
      )}
    </p>
  );
}

/** What went wrong, what a person can do, and a button that tries again. */
export function Problem(props: { problem: IProblem; onRetry: () => void }): React.JSX.Element {
  return (
    <div className="nbgpu-Problem" role="alert">
      <p className="nbgpu-Problem-message">{asSentence(props.problem.message)}</p>
      {props.problem.hint !== null && <Hint text={asSentence(props.problem.hint)} />}
      <button
        type="button"
        className="jp-mod-styled jp-mod-minimal nbgpu-Button"
        onClick={props.onRetry}
      >
        <LabIcon.resolveReact icon={refreshIcon} tag="span" className="nbgpu-Button-icon" />
        Try again
      </button>
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

/** The notebook in front and its session, found by the notebook's kernel id. */
export function NotebookSection(props: {
  notebook: INotebook | null;
  sessions: readonly ISession[];
  now_s: number;
}): React.JSX.Element {
  const { notebook, sessions, now_s } = props;
  if (notebook === null) {
    return (
      <Section id="notebook" title="This notebook">
        <p className="nbgpu-Empty">No notebook is open.</p>
      </Section>
    );
  }
  const session =
    notebook.kernelId === null
      ? undefined
      : sessions.find(candidate => candidate.notebook_id === notebook.kernelId);
  return (
    <Section id="notebook" title={notebook.name} note="this notebook">
      {notebook.kernelId === null ? (
        <Empty text="No kernel: choose one for the notebook first" />
      ) : session === undefined ? (
        <Empty text="No session: a `%%gpu` cell or `%gpu attach` opens one" />
      ) : (
        <NotebookSession session={session} now_s={now_s} />
      )}
    </Section>
  );
}

function Empty(props: { text: string }): React.JSX.Element {
  return (
    <div className="nbgpu-Empty" role="status">
      <Hint text={props.text} />
    </div>
  );
}

function NotebookSession(props: { session: ISession; now_s: number }): React.JSX.Element {
  const { session, now_s } = props;
  const description = describeSession(session, now_s);
  const accelerators = describeAccelerators(session.accelerators);
  return (
    <div className="nbgpu-NotebookSession">
      <div className="nbgpu-State">
        <Dot tone={description.tone} />
        <span aria-hidden="true">{description.text}</span>
        <span className="nbgpu-spokenOnly" role="status">
          {description.spoken}
        </span>
      </div>
      <div className="nbgpu-State-detail">
        {accelerators === null ? 'Holds no accelerators now' : accelerators}
        {session.node_hostname !== null && ` on ${session.node_hostname}`}
        {isSimulated(session) && <SimulatedMark />}
      </div>
      {description.hint !== null && <Hint text={asSentence(description.hint)} />}
    </div>
  );
}

/** What the pool could grant now. */
export function AcceleratorsSection(props: { pool: IPool }): React.JSX.Element {
  const { offers, node } = props.pool;
  return (
    <Section
      id="accelerators"
      title="Accelerators"
      {...(node === null ? {} : { note: node.hostname })}
    >
      {offers.length === 0 ? (
        <p className="nbgpu-Empty">This pool offers nothing now.</p>
      ) : (
        <ul className="nbgpu-List" aria-labelledby="nbgpu-accelerators-heading">
          {offers.map(offer => (
            <Offer key={offerKey(offer)} offer={offer} />
          ))}
        </ul>
      )}
    </Section>
  );
}

function offerKey(offer: IOffer): string {
  return [offer.node_hostname, offer.type, offer.memory_bytes, offer.simulated].join(' ');
}

function Offer(props: { offer: IOffer }): React.JSX.Element {
  const { offer } = props;
  const busy = !offer.shared && offer.free === 0;
  return (
    <li className="nbgpu-Offer" data-type={offer.type}>
      <span className="nbgpu-Offer-type">{offer.type}</span>
      <span className="nbgpu-note">
        {offer.memory_bytes === null
          ? offer.shared
            ? 'shared'
            : ''
          : formatMemory(offer.memory_bytes)}
      </span>
      <span className={busy ? 'nbgpu-Offer-free nbgpu-warn' : 'nbgpu-Offer-free'}>
        {describeAvailability(offer)}
      </span>
      {offer.simulated && <SimulatedMark />}
    </li>
  );
}

/** Every session of the pool. */
export function SessionsSection(props: {
  sessions: readonly ISession[];
  now_s: number;
}): React.JSX.Element {
  const { sessions, now_s } = props;
  return (
    <Section
      id="sessions"
      title="Sessions"
      {...(sessions.length === 0 ? {} : { note: `${sessions.length} open` })}
    >
      {sessions.length === 0 ? (
        <p className="nbgpu-Empty">None is open.</p>
      ) : (
        <ul className="nbgpu-List" aria-labelledby="nbgpu-sessions-heading">
          {sessions.map(session => (
            <SessionRow key={session.id} session={session} now_s={now_s} />
          ))}
        </ul>
      )}
    </Section>
  );
}

function SessionRow(props: { session: ISession; now_s: number }): React.JSX.Element {
  const { session, now_s } = props;
  const description = describeSession(session, now_s);
  const name = session.notebook_name ?? 'not from a notebook';
  return (
    <li className="nbgpu-SessionRow" data-session={session.id}>
      <Dot tone={description.tone} />
      <span className="nbgpu-SessionRow-name" title={name}>
        {name}
      </span>
      <span className="nbgpu-note">
        {describeAccelerators(session.accelerators) ?? 'no accelerators'}
      </span>
      <span className="nbgpu-SessionRow-detail">
        {description.text}
        {isSimulated(session) && <SimulatedMark />}
      </span>
    </li>
  );
}
