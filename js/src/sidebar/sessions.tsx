/** The section of sessions: all of mine on all pools, and what can be done with each. */

import * as React from 'react';

import type { Actions } from '../actions';
import { hasKernel, type IFoundSession } from '../lookup';
import type { INotebook } from '../state';
import { describeAccelerators, isSimulated } from '../words/accelerators';
import {
  describeBriefly,
  describeClosing,
  describeSession,
  describeUsage,
  nameOf
} from '../words/sessions';
import { Disclosure, Dot, Empty, Facts, Section, SimulatedMark, TextButton } from './elements';

export function SessionsSection(props: {
  sessions: readonly IFoundSession[];
  notebook: INotebook | null;
  now_s: number;
  /** Since the state was sent. */
  since_s: number;
  actions: Actions;
}): React.JSX.Element {
  const { sessions, notebook, now_s, since_s, actions } = props;
  return (
    <Section
      id="sessions"
      title="Sessions"
      {...(sessions.length === 0 ? {} : { note: `${sessions.length} of mine` })}
    >
      {sessions.length === 0 ? (
        <Empty text="None is open." />
      ) : (
        <ul className="nbgpu-List" aria-labelledby="nbgpu-sessions-heading">
          {sessions.map(found => (
            <SessionItem
              key={found.session.id}
              found={found}
              notebook={notebook}
              now_s={now_s}
              since_s={since_s}
              actions={actions}
            />
          ))}
        </ul>
      )}
    </Section>
  );
}

function SessionItem(props: {
  found: IFoundSession;
  notebook: INotebook | null;
  now_s: number;
  since_s: number;
  actions: Actions;
}): React.JSX.Element {
  const { found, notebook, now_s, since_s, actions } = props;
  const { session, pool } = found;
  const [isOpen, setOpen] = React.useState(false);
  const description = describeSession(session, now_s);
  const name = nameOf(session);
  const accelerators = describeAccelerators(session.accelerators) ?? 'no accelerators';
  const isHere = hasKernel(notebook) && session.notebook_id === notebook.kernelId;
  const closing = describeClosing(session, now_s);
  return (
    <li data-session={session.id}>
      <Disclosure
        label={`${name}, ${accelerators}: ${description.spoken}`}
        className="nbgpu-SessionRow"
        isOpen={isOpen}
        onToggle={() => {
          setOpen(!isOpen);
        }}
        summary={
          <>
            <Dot tone={description.tone} />
            <span className="nbgpu-SessionRow-name" title={name}>
              {name}
            </span>
            <span className="nbgpu-SessionRow-accelerators" title={accelerators}>
              {accelerators}
            </span>
            <span className="nbgpu-SessionRow-state">{describeBriefly(session)}</span>
          </>
        }
      >
        <Facts
          rows={[
            {
              name: 'State',
              value: (
                <>
                  {description.text} {isSimulated(session) && <SimulatedMark />}
                </>
              )
            },
            { name: 'On', value: session.node_hostname ?? pool.name },
            { name: 'Used so far', value: describeUsage(session, since_s) },
            ...(closing === null ? [] : [{ name: 'Closes', value: closing }])
          ]}
        />
        <div className="nbgpu-Buttons">
          {!isHere && (
            <TextButton
              label="Attach here"
              title={
                hasKernel(notebook)
                  ? `Make it the session of ${notebook.name}`
                  : 'Open a notebook with a kernel first'
              }
              isDisabled={!hasKernel(notebook) || session.phase !== 'ready'}
              onClick={() => void actions.attach(session)}
            />
          )}
          {!isHere && session.notebook_id !== null && (
            <TextButton label="Open notebook" onClick={() => void actions.openNotebook(session)} />
          )}
          <TextButton label="Logs" onClick={() => void actions.showLogs(session)} />
          <TextButton
            label="Interrupt"
            isDisabled={session.kernel_state !== 'executing'}
            onClick={() => void actions.interrupt(session)}
          />
          <TextButton
            label="Restart"
            title="A fresh kernel on the same accelerators"
            isDisabled={session.phase !== 'ready'}
            onClick={() => void actions.restart(session)}
          />
          <TextButton label="Close" onClick={() => void actions.close(session)} />
        </div>
      </Disclosure>
    </li>
  );
}
