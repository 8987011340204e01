/** The section of accelerators: what every pool offers, how many of it, and the button that attaches. */

import * as React from 'react';

import type { Actions } from '../actions';
import { offerKey } from '../lookup';
import type { INotebook, IOffer, IPool } from '../state';
import {
  countsOf,
  describeAvailability,
  describeCount,
  describePrice,
  specOf
} from '../words/accelerators';
import { formatMemory } from '../words/quantities';
import { Empty, Section, SimulatedMark } from './elements';

interface IChoice {
  pool: IPool;
  offer: IOffer;
  key: string;
}

/** Chooses an accelerator and how many, and attaches the notebook in front to it. */
export function AcceleratorsSection(props: {
  pools: readonly IPool[];
  notebook: INotebook | null;
  actions: Actions;
}): React.JSX.Element {
  const { pools, notebook, actions } = props;
  const [chosenKey, setChosenKey] = React.useState<string | null>(null);
  const [wantedCount, setWantedCount] = React.useState(1);
  const connected = pools.filter(({ link }) => link === 'connected');
  const choices = connected.flatMap(pool =>
    pool.offers.map(offer => ({ pool, offer, key: offerKey(pool, offer) }))
  );
  const chosen = choices.find(({ key }) => key === chosenKey) ?? firstChoice(choices);
  const counts = chosen === undefined ? [] : countsOf(chosen.offer);
  const count = counts.includes(wantedCount) ? wantedCount : (counts.at(-1) ?? 1);
  const hosts = connected.map(pool =>
    pool.embedded ? (pool.node?.hostname ?? pool.name) : pool.name
  );
  return (
    <Section
      id="accelerators"
      title="Accelerators"
      {...(connected.length === 1 ? { note: hosts[0] } : {})}
    >
      {chosen === undefined ? (
        <Empty
          text={
            connected.length === 0
              ? 'No pool is connected: see below what is wrong.'
              : 'These pools offer nothing now.'
          }
        />
      ) : (
        <form
          onSubmit={event => {
            event.preventDefault();
            void actions.open(chosen.pool.name, specOf(chosen.offer, count));
          }}
        >
          <div
            className="nbgpu-List nbgpu-mod-offers"
            role="radiogroup"
            aria-labelledby="nbgpu-accelerators-heading"
          >
            {connected.map(pool => (
              <React.Fragment key={pool.name}>
                {connected.length > 1 && <div className="nbgpu-Subheading">{pool.name}</div>}
                {choices
                  .filter(choice => choice.pool === pool)
                  .map(choice => (
                    <Offer
                      key={choice.key}
                      choice={choice}
                      count={choice === chosen ? count : 1}
                      isChosen={choice === chosen}
                      onChoose={() => {
                        setChosenKey(choice.key);
                      }}
                    />
                  ))}
              </React.Fragment>
            ))}
          </div>
          <Ordering
            offer={chosen.offer}
            counts={counts}
            count={count}
            onCount={setWantedCount}
            why={whyNot(notebook)}
            isBusy={actions.isBusy}
          />
        </form>
      )}
    </Section>
  );
}

/** What is free comes before what is busy, and GPUs before the CPU. */
function firstChoice(choices: readonly IChoice[]): IChoice | undefined {
  return choices.find(({ offer }) => !offer.shared && offer.free > 0) ?? choices[0];
}

function whyNot(notebook: INotebook | null): string | null {
  if (notebook === null) {
    return 'Open a notebook to attach it.';
  }
  return notebook.kernelId === null ? 'The notebook needs a kernel first.' : null;
}

function Offer(props: {
  choice: IChoice;
  count: number;
  isChosen: boolean;
  onChoose: () => void;
}): React.JSX.Element {
  const { offer } = props.choice;
  const isBusy = !offer.shared && offer.free === 0;
  const price = describePrice(offer);
  return (
    <label className="nbgpu-Offer" data-type={offer.type} data-chosen={props.isChosen}>
      <input
        type="radio"
        name="nbgpu-offer"
        className="nbgpu-spokenOnly"
        checked={props.isChosen}
        onChange={props.onChoose}
      />
      <span className="nbgpu-Offer-type">
        <span className="nbgpu-Offer-name" title={offer.type}>
          {describeCount(offer.type, props.count)}
        </span>{' '}
        <span className="nbgpu-note">
          {offer.memory_bytes === null
            ? offer.shared
              ? (offer.node_hostname ?? 'shared')
              : ''
            : formatMemory(offer.memory_bytes)}
        </span>
      </span>{' '}
      <span className="nbgpu-Offer-facts">
        {offer.simulated && <SimulatedMark />}{' '}
        <span className={isBusy ? 'nbgpu-warn' : undefined}>{describeAvailability(offer)}</span>{' '}
        {price !== null && <span>{price}</span>}
      </span>
    </label>
  );
}

function Ordering(props: {
  offer: IOffer;
  counts: readonly number[];
  count: number;
  onCount: (count: number) => void;
  why: string | null;
  isBusy: boolean;
}): React.JSX.Element {
  const { offer, counts, count, onCount, why, isBusy } = props;
  const waits = !offer.shared && offer.free < count;
  return (
    <>
      <div className="nbgpu-Ordering">
        {counts.length > 1 && (
          <fieldset className="nbgpu-Counts">
            <legend>{offer.type.startsWith('CPU') ? 'CPUs' : 'GPUs'}</legend>
            {counts.map(value => (
              <label key={value} className="nbgpu-Count" data-chosen={value === count}>
                <input
                  type="radio"
                  name="nbgpu-count"
                  className="nbgpu-spokenOnly"
                  checked={value === count}
                  onChange={() => {
                    onCount(value);
                  }}
                />
                {value}
              </label>
            ))}
          </fieldset>
        )}
        <button
          type="submit"
          className="jp-mod-styled nbgpu-Button nbgpu-mod-primary"
          disabled={why !== null || isBusy}
        >
          Attach
        </button>
      </div>
      {(why !== null || waits) && (
        <p className="nbgpu-note nbgpu-mod-wrap">
          {why ?? `Waits in the queue until ${count === 1 ? 'one is' : `${count} are`} free.`}
        </p>
      )}
    </>
  );
}
