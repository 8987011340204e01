/**
 * The dialog that adds a pool: name, address and token, or the line that an agent on a network prints, with a trial
 * before anything is kept.
 */

import { Dialog, ReactWidget } from '@jupyterlab/apputils';
import * as React from 'react';

import { RequestError, type IPoolAddress, type Server } from '../server';
import type { IPoolTrial, IProblem } from '../state';
import { asSentence } from '../words/sentences';
import { Hint, TextButton } from './elements';

const EMPTY: IPoolAddress = { name: '', address: '', token: '', pin: '', code: '' };

/** Asks for a pool and adds it; what was typed is kept while the server refuses it. */
export async function addPool(server: Server): Promise<void> {
  let typed = EMPTY;
  let refusal: IProblem | null = null;
  for (;;) {
    const body = new PoolForm(server, typed, refusal);
    const dialog = new Dialog<IPoolAddress>({
      title: 'Add a pool',
      body,
      buttons: [Dialog.cancelButton(), Dialog.okButton({ label: 'Add' })],
      focusNodeSelector: 'input',
      hasClose: true
    });
    const answer = await dialog.launch();
    if (!answer.button.accept || answer.value === null) {
      return;
    }
    typed = answer.value;
    try {
      await server.addPool(typed);
      return;
    } catch (error) {
      if (!(error instanceof RequestError)) {
        throw error;
      }
      refusal = error.problem;
    }
  }
}

class PoolForm extends ReactWidget implements Dialog.IBodyWidget<IPoolAddress> {
  constructor(
    private readonly server: Server,
    private _value: IPoolAddress,
    private readonly refusal: IProblem | null
  ) {
    super();
  }

  getValue(): IPoolAddress {
    return this._value;
  }

  override render(): React.JSX.Element {
    return (
      <PoolFields
        initial={this._value}
        refusal={this.refusal}
        onChange={value => {
          this._value = value;
        }}
        onTest={value => this.server.testPool(value)}
      />
    );
  }
}

/** The fields, and what a trial said. */
export function PoolFields(props: {
  initial: IPoolAddress;
  refusal: IProblem | null;
  onChange: (value: IPoolAddress) => void;
  onTest: (value: IPoolAddress) => Promise<IPoolTrial>;
}): React.JSX.Element {
  const { initial, refusal, onChange, onTest } = props;
  const [value, setValue] = React.useState(initial);
  const [trial, setTrial] = React.useState<IPoolTrial | 'running' | null>(
    refusal === null ? null : { ...refusal, ok: false, latency_ms: null, node: null }
  );
  const isOnNetwork = value.address.trim().startsWith('grpcs://');
  const isLine = /^!?\s*nbgpu\s+pool\s+add\s/.test(value.address.trim());
  const edit = (fields: Partial<IPoolAddress>) => {
    const edited = { ...value, ...fields };
    setValue(edited);
    setTrial(null);
    onChange(edited);
  };
  const test = async () => {
    setTrial('running');
    try {
      setTrial(await onTest(value));
    } catch (error) {
      const problem =
        error instanceof RequestError ? error.problem : { message: String(error), hint: null };
      setTrial({ ...problem, ok: false, latency_ms: null, node: null });
    }
  };
  return (
    <div className="nbgpu-PoolForm">
      <Field
        label="Name"
        value={value.name}
        placeholder="lab"
        onChange={name => {
          edit({ name });
        }}
      />
      <Field
        label="Address"
        value={value.address}
        placeholder="grpcs://gpu.lab:7443, or the whole line that its owner gave you"
        onChange={address => {
          edit({ address });
        }}
      />
      {isOnNetwork && (
        <>
          <Field
            label="Pin"
            value={value.pin}
            placeholder="sha256:…"
            onChange={pin => {
              edit({ pin });
            }}
          />
          <Field
            label="Code"
            value={value.code}
            placeholder="ABCD-EFGH-JKLM-NPQR"
            onChange={code => {
              edit({ code });
            }}
          />
        </>
      )}
      {!isOnNetwork && !isLine && (
        <Field
          label="Token"
          type="password"
          value={value.token}
          placeholder=""
          onChange={token => {
            edit({ token });
          }}
        />
      )}
      <div className="nbgpu-PoolForm-trial">
        <TextButton
          label="Test"
          title="Connect once, and keep nothing"
          isDisabled={value.address.trim() === '' || trial === 'running'}
          onClick={() => void test()}
        />
        <div role="status">
          {trial === 'running' ? 'Connecting…' : trial !== null && <TrialResult trial={trial} />}
        </div>
      </div>
    </div>
  );
}

function TrialResult(props: { trial: IPoolTrial }): React.JSX.Element {
  const { trial } = props;
  return (
    <>
      <div className={trial.ok ? 'nbgpu-ok' : 'nbgpu-error'}>{asSentence(trial.message)}</div>
      {trial.hint !== null && trial.hint !== '' && <Hint text={asSentence(trial.hint)} />}
    </>
  );
}

function Field(props: {
  label: string;
  value: string;
  placeholder: string;
  type?: 'text' | 'password';
  onChange: (value: string) => void;
}): React.JSX.Element {
  return (
    <label className="nbgpu-Field">
      <span>{props.label}</span>
      <input
        className="jp-mod-styled"
        type={props.type ?? 'text'}
        autoComplete="off"
        spellCheck={false}
        value={props.value}
        placeholder={props.placeholder}
        onChange={event => {
          props.onChange(event.target.value);
        }}
      />
    </label>
  );
}
