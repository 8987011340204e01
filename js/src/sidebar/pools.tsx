/** The section of pools: how each stands, what went wrong in words, and how pools come and go. */

import { addIcon, refreshIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { Actions } from '../actions';
import type { IPool } from '../state';
import { asSentence, asTitle } from '../words/sentences';
import type { Tone } from '../words/sessions';
import { Disclosure, Dot, Facts, Hint, IconButton, Section, TextButton } from './elements';

const TONES: Readonly<Record<IPool['link'], Tone>> = {
  connected: 'busy',
  connecting: 'waiting',
  unreachable: 'failed'
};

export function PoolsSection(props: {
  pools: readonly IPool[];
  actions: Actions;
  onAdd: () => void;
}): React.JSX.Element {
  const { pools, actions, onAdd } = props;
  const isAnyConnected = pools.some(({ link }) => link === 'connected');
  return (
    <Section
      id="pools"
      title="Pools"
      note={<IconButton icon={addIcon} label="Add a pool" onClick={onAdd} />}
    >
      <ul className="nbgpu-List" aria-labelledby="nbgpu-pools-heading">
        {pools.map(pool => (
          <PoolItem key={pool.name} pool={pool} isSaidAbove={!isAnyConnected} actions={actions} />
        ))}
      </ul>
    </Section>
  );
}

function PoolItem(props: {
  pool: IPool;
  /** Whether what is wrong with it stands at the top of the panel. */
  isSaidAbove: boolean;
  actions: Actions;
}): React.JSX.Element {
  const { pool, isSaidAbove, actions } = props;
  const [chosen, setOpen] = React.useState<boolean | null>(null);
  // what went wrong is to be read without a click
  const isOpen = chosen ?? (pool.link === 'unreachable' && !isSaidAbove);
  const state = describeLink(pool);
  const address = pool.embedded ? 'embedded' : pool.address;
  return (
    <li data-pool={pool.name}>
      <Disclosure
        label={`${pool.name}, ${address}: ${state}`}
        className="nbgpu-PoolRow"
        isOpen={isOpen}
        onToggle={() => {
          setOpen(!isOpen);
        }}
        summary={
          <>
            <Dot tone={TONES[pool.link]} />
            <span className="nbgpu-PoolRow-name" title={pool.name}>
              {pool.embedded ? asTitle(pool.name) : pool.name}
            </span>
            <span className="nbgpu-note nbgpu-PoolRow-address" title={address}>
              {address}
            </span>
            <span
              className={
                pool.link === 'unreachable'
                  ? 'nbgpu-PoolRow-state nbgpu-error'
                  : 'nbgpu-PoolRow-state'
              }
            >
              {state}
            </span>
          </>
        }
      >
        {pool.problem !== null && (
          <div className="nbgpu-error nbgpu-mod-wrap">{asSentence(pool.problem.message)}</div>
        )}
        {pool.problem?.hint != null && <Hint text={asSentence(pool.problem.hint)} />}
        <Facts rows={factsOf(pool)} />
        <div className="nbgpu-Buttons">
          {pool.link !== 'connected' && (
            <TextButton
              label="Try again"
              icon={refreshIcon}
              onClick={() => void actions.retry(pool)}
            />
          )}
          {pool.removable && (
            <TextButton
              label="Remove"
              title="Forget the pool; its sessions go on there"
              onClick={() => void actions.removePool(pool)}
            />
          )}
        </div>
      </Disclosure>
    </li>
  );
}

/** "0.4 ms", "connecting", "cannot be reached". */
function describeLink(pool: IPool): string {
  switch (pool.link) {
    case 'connected':
      return pool.latency_ms === null ? 'connected' : formatLatency(pool.latency_ms);
    case 'connecting':
      return 'connecting';
    case 'unreachable':
      return 'not reached';
  }
}

function formatLatency(latency_ms: number): string {
  return `${latency_ms < 9.95 ? latency_ms.toFixed(1) : Math.round(latency_ms)} ms`;
}

function factsOf(pool: IPool): { name: string; value: string }[] {
  const rows = [{ name: 'Address', value: pool.address }];
  if (pool.progress !== null) {
    rows.push({ name: 'Now', value: pool.progress });
  }
  if (pool.node !== null) {
    rows.push({ name: 'Node', value: pool.node.hostname });
    if (pool.node.driver_version !== null) {
      rows.push({ name: 'Driver', value: pool.node.driver_version });
    }
  }
  return rows.filter(({ value }) => value !== '');
}
