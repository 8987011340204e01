/** How sessions and requests read: what they do, in which environment, and what they used. */

import type { IExecution, IKernelExit, IRequest, ISession, Phase } from '../state';
import { formatMoney } from './quantities';
import { asTitle, count, ordinal } from './sentences';
import { formatAge, formatDuration, formatSpan } from './time';

export type Tone = 'busy' | 'idle' | 'waiting' | 'failed';

/** What a session is doing. Times are in seconds since 1970, by one clock. */
export interface IDescription {
  text: string;
  /** The same without what changes every second, for screen readers. */
  spoken: string;
  tone: Tone;
  /** What comes next, or what a person can do; commands are in backticks. */
  hint: string | null;
}

/** What the session is doing at `now_s`, by the clock that the session's times are by. */
export function describeSession(session: ISession, now_s: number): IDescription {
  if (session.phase === 'ready') {
    return describeKernel(session, now_s);
  }
  const { environment } = session;
  if (session.phase === 'materialising' && environment?.total != null) {
    const text = `Installing ${environment.done ?? 0} of ${count(environment.total, 'package')}`;
    return { ...plain(text, 'waiting', environment.current ?? ''), spoken: 'Installing packages' };
  }
  return describeOpening(session);
}

/** What a request waits for, or why it failed. */
export function describeRequest(request: IRequest): IDescription {
  if (request.problem !== null) {
    return {
      text: `${request.spec_text === '' ? 'The request' : request.spec_text} was not granted`,
      spoken: 'The request failed',
      tone: 'failed',
      hint: request.problem.hint
    };
  }
  return request.phase === null
    ? plain('Looking for a pool that has it', 'waiting', request.detail)
    : describeOpening(request);
}

interface IOpening {
  phase: Phase | null;
  detail: string;
  queue_position: number | null;
  queue_length: number | null;
}

function describeOpening(opening: IOpening): IDescription {
  const { phase, detail } = opening;
  switch (phase) {
    case 'queued':
      return plain(describeQueue(opening), 'waiting', detail);
    case 'placing':
      return plain('Getting its accelerators', 'waiting', detail);
    case 'materialising':
      return plain('Building the environment', 'waiting', detail);
    case 'starting':
      return plain('Starting the kernel', 'waiting', detail);
    case 'closed':
      return plain('Closed', 'idle');
    case 'ready':
      return plain('Ready', 'idle');
    case null:
      return plain('In a state that this version does not know', 'waiting', detail);
  }
}

function describeQueue({ queue_position, queue_length }: IOpening): string {
  if (queue_position === null) {
    return 'Queued';
  }
  return queue_length === null
    ? `Queued, ${ordinal(queue_position)}`
    : `Queued, ${ordinal(queue_position)} of ${queue_length}`;
}

function describeKernel(session: ISession, now_s: number): IDescription {
  switch (session.kernel_state) {
    case 'starting':
      return plain('Starting the kernel', 'waiting');
    case 'executing':
      return describeExecuting(session.executing, now_s);
    case 'dead':
      return {
        ...plain(describeExit(session.kernel_exit), 'failed'),
        hint: 'the next `%%gpu` cell starts a fresh kernel'
      };
    case 'idle':
      return describeIdle(session, now_s);
    case null:
      return plain('Ready', 'idle');
  }
}

function describeExecuting(execution: IExecution | null, now_s: number): IDescription {
  const spoken =
    execution?.execution_count == null ? 'Running' : `Running cell [${execution.execution_count}]`;
  const duration =
    execution === null ? '' : ` for ${formatDuration(now_s - execution.started_unix_s)}`;
  return { text: spoken + duration, spoken, tone: 'busy', hint: null };
}

function describeIdle(session: ISession, now_s: number): IDescription {
  const warning = describeWarning(session, now_s);
  const idle_s = now_s - (session.idle_since_unix_s ?? session.last_active_unix_s);
  if (warning !== null) {
    const spoken = session.closing_cause === 'idle' ? 'Idle, closes soon' : 'Closes soon';
    return { text: asTitle(warning), spoken, tone: 'idle', hint: null };
  }
  return {
    text: idle_s < 60 ? 'Idle' : `Idle for ${formatAge(idle_s)}`,
    spoken: 'Idle',
    tone: 'idle',
    hint: null
  };
}

const SIGNAL_NAMES: Readonly<Record<number, string>> = {
  6: 'SIGABRT',
  7: 'SIGBUS',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  15: 'SIGTERM'
};

function describeExit(kernelExit: IKernelExit | null): string {
  if (kernelExit !== null && kernelExit.ended_because !== null) {
    return `The kernel was ended ${kernelExit.ended_because}`;
  }
  if (kernelExit === null || kernelExit.asked_for) {
    return 'The kernel was ended';
  }
  if (kernelExit.signal !== null) {
    const name = SIGNAL_NAMES[kernelExit.signal];
    return `The kernel was killed by ${name ?? `signal ${kernelExit.signal}`}`;
  }
  return kernelExit.exit_code === null
    ? 'The kernel ended on its own'
    : `The kernel ended with exit code ${kernelExit.exit_code}`;
}

function plain(text: string, tone: Tone, detail = ''): IDescription {
  return { text, spoken: text, tone, hint: detail === '' ? null : detail };
}

/** The state in one or two words, for the toolbar: "running", "idle", "queued". */
export function describeBriefly(session: ISession): string {
  switch (session.phase) {
    case 'queued':
      return 'queued';
    case 'placing':
    case 'materialising':
    case 'starting':
      return 'opening';
    case 'closed':
      return 'closed';
    case 'ready':
    case null:
      break;
  }
  switch (session.kernel_state) {
    case 'executing':
      return 'running';
    case 'starting':
      return 'starting';
    case 'dead':
      return 'kernel ended';
    case 'idle':
    case null:
      return 'idle';
  }
}

/**
 * "as in the notebook, 214 packages", "as found there, Python 3.11"; null before it is known. Once the notebook has said
 * that nothing differs: "in sync, 214 packages", "the notebook’s own, Python 3.11".
 */
export function describeEnvironment(session: ISession): string | null {
  const { environment, python_version } = session;
  const python =
    python_version === null || python_version === '' ? [] : [`Python ${python_version}`];
  if (environment === null) {
    return python[0] ?? null;
  }
  const packages =
    environment.package_count === null ? [] : [count(environment.package_count, 'package')];
  const isCompared = session.difference !== null;
  return environment.own
    ? [isCompared ? 'in sync' : 'as in the notebook', ...packages].join(', ')
    : [isCompared ? 'the notebook’s own' : 'as found there', ...packages, ...python].join(', ');
}

/** "12.4 GPU-min, $0.43", `since_s` seconds after the state was sent. */
export function describeUsage(session: ISession, since_s: number): string {
  const held = session.accelerators.filter(accelerator => !accelerator.shared).length;
  const unit = held === 0 && session.accelerators.length > 0 ? '' : 'GPU-';
  const seconds = session.accelerator_seconds + held * Math.max(0, since_s);
  const time =
    seconds < 60
      ? `${Math.floor(seconds)} ${unit}s`
      : seconds < 6000
        ? `${(seconds / 60).toFixed(1)} ${unit}min`
        : `${(seconds / 3600).toFixed(1)} ${unit}h`;
  if (session.cost === null) {
    return time;
  }
  const cost = session.cost + ((session.cost_per_hour ?? 0) * Math.max(0, since_s)) / 3600;
  return `${time}, ${formatMoney(cost, session.currency)}`;
}

/** "after 60 min without work" while it works, "in 48 min" while it does not; null: never by itself. */
export function describeClosing(session: ISession, now_s: number): string | null {
  const { idle_close_s, closes_unix_s, closing_cause } = session;
  const after = idle_close_s === null ? null : `after ${formatSpan(idle_close_s)} without work`;
  if (closes_unix_s === null) {
    return after;
  }
  const left = `in ${formatAge(closes_unix_s - now_s)}`;
  switch (closing_cause) {
    case 'lifetime':
      return after === null ? left : `${after}, at the latest ${left}`;
    case 'budget':
      return `${left}, when its budget is spent`;
    case 'idle':
    case 'lease':
    case null:
      return left;
  }
}

/** What is to be said now, before the session is closed: "H100 ×8 of digits.ipynb: idle for 52 min, closes in 8 min". */
export function describeWarning(session: ISession, now_s: number): string | null {
  const { closes_unix_s, closing_warn_unix_s, closing_cause, idle_since_unix_s } = session;
  if (closes_unix_s === null || closing_warn_unix_s === null || now_s < closing_warn_unix_s) {
    return null;
  }
  const left = `closes in ${formatAge(closes_unix_s - now_s)}`;
  switch (closing_cause) {
    case 'idle':
      return idle_since_unix_s === null
        ? left
        : `idle for ${formatAge(now_s - idle_since_unix_s)}, ${left}`;
    case 'lifetime':
      return `${left}: this pool keeps none open for longer`;
    case 'budget':
      return `${left}: then its budget is spent`;
    case 'lease':
    case null:
      return left;
  }
}

/** Whether a click can put the end off. */
export function canKeep(session: ISession): boolean {
  return session.closing_cause === 'idle' || session.closing_cause === 'lease';
}

/** The name of the session's notebook, or what stands in its place. */
export function nameOf(session: ISession): string {
  return session.notebook_name ?? 'not from a notebook';
}

/** What is lost when the session is closed, as one sentence. */
export function describeLoss(session: ISession): string {
  const running = session.kernel_state === 'executing' ? 'What runs in it ends, and ' : '';
  const lost =
    session.executions === 0
      ? 'its accelerators are free for others then'
      : `the variables of the ${count(session.executions, 'cell')} that ran in it are lost`;
  return `${asTitle(running + lost)}.`;
}
