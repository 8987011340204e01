/** The section of the notebook in front: what its session does, on what, since when, and what can be done. */

import * as React from 'react';

import type { Actions } from '../actions';
import { requestsOf, sessionsOf, type IFoundRequest, type IFoundSession } from '../lookup';
import type { INotebook, IPageState } from '../state';
import { describeAccelerators, isSimulated } from '../words/accelerators';
import { asSentence } from '../words/sentences';
import {
  canKeep,
  describeClosing,
  describeRequest,
  describeSession,
  describeUsage,
  describeWarning,
  type IDescription
} from '../words/sessions';
import { Dot, Empty, Facts, Hint, Problem, Section, SimulatedMark, TextButton } from './elements';
import { notebookFactRows } from './notebook_facts';

/** The notebook in front and its session, found by the notebook's kernel id. */
export function ThisNotebookSection(props: {
  notebook: INotebook | null;
  state: IPageState;
  now_s: number;
  actions: Actions;
}): React.JSX.Element {
  const { notebook, state, now_s, actions } = props;
  if (notebook === null) {
    return (
      <Section id="notebook" title="This notebook">
        <Empty text="No notebook is open: open one, and it can be attached to an accelerator here." />
      </Section>
    );
  }
  const sessions = sessionsOf(state, notebook.kernelId);
  const shown = sessions.filter(({ session }, index) => index === 0 || session.phase !== 'ready');
  const requests = requestsOf(state, notebook.kernelId);
  const waiting = requests.find(({ request }) => request.problem === null);
  // once it waits at a pool, a request is among the sessions too
  const isSession = shown.some(({ session }) => session.phase !== 'ready');
  return (
    <Section id="notebook" title={notebook.name} note="this notebook">
      {requests.map(
        ({ request }) =>
          request.problem !== null && (
            <Problem
              key={request.request_id}
              problem={request.problem}
              onDismiss={() => void actions.withdraw(request.request_id)}
            />
          )
      )}
      {shown.map(found => (
        <NotebookSession
          key={found.session.id}
          found={found}
          waiting={waiting}
          now_s={now_s}
          since_s={now_s - state.sent_unix_s}
          actions={actions}
        />
      ))}
      {waiting !== undefined && !isSession && <WaitingRequest found={waiting} actions={actions} />}
      {shown.length === 0 && waiting === undefined && (
        <NoSession notebook={notebook} state={state} />
      )}
    </Section>
  );
}

function NoSession(props: { notebook: INotebook; state: IPageState }): React.JSX.Element {
  if (props.notebook.kernelId === null) {
    return <Empty text="No kernel: choose one for the notebook first." />;
  }
  const away = props.state.pools.filter(({ link }) => link !== 'connected');
  if (away.length > 0) {
    const names = away.map(({ name }) => name).join(', ');
    return <Empty text={`No session here. What runs on ${names} is not known now.`} />;
  }
  return (
    <Empty text="No session: choose an accelerator below, or run a `%%gpu` cell, which opens one." />
  );
}

/** The state in words; only what changes seldom is read aloud. */
function State(props: { description: IDescription }): React.JSX.Element {
  const { description } = props;
  return (
    <>
      <div className="nbgpu-State">
        <Dot tone={description.tone} />
        <span aria-hidden="true">{description.text}</span>
        <span className="nbgpu-spokenOnly" role="status">
          {description.spoken}
        </span>
      </div>
      {description.hint !== null && <Hint text={asSentence(description.hint)} />}
    </>
  );
}

function WaitingRequest(props: { found: IFoundRequest; actions: Actions }): React.JSX.Element {
  const { found, actions } = props;
  const { request, pool } = found;
  return (
    <div className="nbgpu-NotebookSession">
      <State description={describeRequest(request)} />
      <div className="nbgpu-State-detail">
        {request.spec_text === '' ? 'A session' : request.spec_text} on {pool.name}
      </div>
      <div className="nbgpu-Buttons">
        <TextButton
          label="Withdraw"
          title="Do not wait any longer"
          onClick={() => void actions.withdraw(request.request_id)}
        />
      </div>
    </div>
  );
}

function NotebookSession(props: {
  found: IFoundSession;
  /** The request that it may have come of. */
  waiting: IFoundRequest | undefined;
  now_s: number;
  /** Since the state was sent. */
  since_s: number;
  actions: Actions;
}): React.JSX.Element {
  const { found, waiting, now_s, since_s, actions } = props;
  const { session, pool } = found;
  const accelerators = describeAccelerators(session.accelerators);
  const closing = describeClosing(session, now_s);
  const rows = [
    ...notebookFactRows(session, actions),
    { name: 'Used so far', value: describeUsage(session, since_s) },
    ...(closing === null ? [] : [{ name: 'Closes', value: closing }])
  ];
  return (
    <div className="nbgpu-NotebookSession">
      <State description={describeSession(session, now_s)} />
      <div className="nbgpu-State-detail">
        <span>
          {accelerators === null ? 'Holds no accelerators now' : accelerators}
          {session.node_hostname !== null && ` on ${session.node_hostname}`}
          {!pool.embedded && `, pool “${pool.name}”`}
        </span>
        {isSimulated(session) && <SimulatedMark />}
      </div>
      <Facts rows={rows} />
      <div className="nbgpu-Buttons">
        {canKeep(session) && describeWarning(session, now_s) !== null && (
          <TextButton
            label="Keep"
            title="Do not close the session yet, though it does nothing"
            onClick={() => void actions.keep(session)}
          />
        )}
        <TextButton
          label="Interrupt"
          title="Stop the cell that runs"
          isDisabled={session.kernel_state !== 'executing'}
          onClick={() => void actions.interrupt(session)}
        />
        <TextButton
          label="Detach"
          title="Leave the session running, without this notebook"
          isDisabled={session.phase !== 'ready'}
          onClick={() => void actions.detach(session)}
        />
        {session.phase !== 'ready' ? (
          <TextButton
            label="Withdraw"
            title="Do not wait any longer"
            onClick={() =>
              void (waiting === undefined
                ? actions.close(session)
                : actions.withdraw(waiting.request.request_id))
            }
          />
        ) : (
          <TextButton
            label="Close"
            title="End the session and free its accelerators"
            onClick={() => void actions.close(session)}
          />
        )}
      </div>
    </div>
  );
}
