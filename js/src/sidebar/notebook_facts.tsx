/** Rows of the notebook's session: its environment beside the notebook's, and what it has of its variables. */

import * as React from 'react';

import type { Actions } from '../actions';
import type { ISession } from '../state';
import type { SyncStage } from '../syncing';
import {
  describeNotebookEnvironment,
  describeVariables,
  differs,
  type IFact
} from '../words/notebook_facts';
import { TextButton, type IFactRow } from './elements';

/** The rows that there is something to say in. */
export function notebookFactRows(session: ISession, actions: Actions): IFactRow[] {
  const environment = describeNotebookEnvironment(session);
  const variables = describeVariables(session);
  return [
    ...(environment === null
      ? []
      : [
          {
            name: 'Environment',
            value: <Environment session={session} fact={environment} actions={actions} />
          }
        ]),
    ...(variables === null ? [] : [{ name: 'Variables', value: <Fact fact={variables} /> }])
  ];
}

function Environment(props: {
  session: ISession;
  fact: IFact;
  actions: Actions;
}): React.JSX.Element {
  const { session, fact, actions } = props;
  const stage = actions.syncing.stageOf(session.id);
  return (
    <>
      <Fact fact={fact} />
      {(stage !== null || differs(session.difference)) && (
        <div className="nbgpu-Sync">
          <TextButton
            label="Sync"
            title="Give the session now what its next %%gpu cell would give it"
            isDisabled={stage !== null || session.phase !== 'ready'}
            onClick={() => void actions.sync(session)}
          />
          <span className="nbgpu-Sync-stage" role="status">
            {describeStage(stage)}
          </span>
        </div>
      )}
    </>
  );
}

function describeStage(stage: SyncStage | null): string {
  switch (stage) {
    case null:
      return '';
    case 'waiting':
      return 'Waits for the cell that runs here';
    case 'running':
      return 'Syncing';
  }
}

/** Text that opens, where there is more to it. */
function Fact(props: { fact: IFact }): React.JSX.Element {
  const { text, details } = props.fact;
  if (details.length === 0) {
    return <>{text}</>;
  }
  return (
    <details className="nbgpu-FactDetails">
      <summary title={details.slice(0, 20).join('\n')}>{text}</summary>
      <ul>
        {details.map(detail => (
          <li key={detail}>{detail}</li>
        ))}
      </ul>
    </details>
  );
}
