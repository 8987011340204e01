/** How the state reads to a person. Pure: takes values and the time, in seconds since 1970. */

import type { IAccelerator, IKernelExit, IOffer, ISession } from './state';

export type Tone = 'busy' | 'idle' | 'waiting' | 'failed';

/** What a session is doing. */
export interface IDescription {
  text: string;
  /** The same without what changes every second, for screen readers. */
  spoken: string;
  tone: Tone;
  /** What comes next, or what a person can do; commands are in backticks. */
  hint: string | null;
}

/** "0:07", "1:32", "1:02:03". */
export function formatDuration(duration_s: number): string {
  const whole = Math.max(0, Math.floor(duration_s));
  const seconds = String(whole % 60).padStart(2, '0');
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours === 0
    ? `${minutes}:${seconds}`
    : `${hours}:${String(minutes).padStart(2, '0')}:${seconds}`;
}

/** "less than a minute", "12 min", "3 h", "2 days". */
export function formatAge(age_s: number): string {
  const minutes = Math.floor(age_s / 60);
  if (minutes < 1) {
    return 'less than a minute';
  }
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 48) {
    return `${hours} h`;
  }
  return `${Math.floor(hours / 24)} days`;
}

/** The capacity as makers sell it: "80 GB". */
export function formatMemory(memory_bytes: number): string {
  return `${Math.round(memory_bytes / 1e9)} GB`;
}

/** A message as the Python side words it, with a capital and, unless it goes on over lines, a full stop. */
export function asSentence(message: string): string {
  const capital = message.charAt(0).toUpperCase() + message.slice(1);
  return capital.includes('\n') || /[.!?:]$/.test(capital) ? capital : `${capital}.`;
}

/** "8 of 8 free", "busy", "busy, 3 waiting"; what any number can share is "free". */
export function describeAvailability(offer: IOffer): string {
  if (offer.shared) {
    return 'free';
  }
  const waiting = offer.queued > 0 ? `, ${offer.queued} waiting` : '';
  return offer.free === 0 ? `busy${waiting}` : `${offer.free} of ${offer.total} free${waiting}`;
}

/** "H100 ×8", "A10", "H100 ×2, A10"; null for none. */
export function describeAccelerators(accelerators: readonly IAccelerator[]): string | null {
  const counts = new Map<string, number>();
  for (const { type } of accelerators) {
    counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  const parts = [...counts].map(([type, count]) => (count === 1 ? type : `${type} ×${count}`));
  return parts.length === 0 ? null : parts.join(', ');
}

/** Whether a word about simulation is due: a CPU worker answers to the name. */
export function isSimulated(session: ISession): boolean {
  return session.accelerators.some(accelerator => accelerator.simulated);
}

/** What the session is doing at `now_s`, by the clock that the session's times are by. */
export function describeSession(session: ISession, now_s: number): IDescription {
  switch (session.phase) {
    case 'queued':
      return plain('Queued', 'waiting');
    case 'placing':
      return plain('Getting its accelerators', 'waiting');
    case 'materialising':
      return plain('Building the environment', 'waiting');
    case 'starting':
      return plain('Starting the kernel', 'waiting');
    case 'closed':
      return plain('Closed', 'idle');
    case 'ready':
      return describeKernel(session, now_s);
    case null:
      return plain('In a state that this version does not know', 'waiting');
  }
}

function describeKernel(session: ISession, now_s: number): IDescription {
  switch (session.kernel_state) {
    case 'starting':
      return plain('Starting the kernel', 'waiting');
    case 'executing':
      return describeExecution(session, now_s);
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

function describeExecution(session: ISession, now_s: number): IDescription {
  const execution = session.executing;
  const spoken =
    execution?.execution_count == null ? 'Running' : `Running cell [${execution.execution_count}]`;
  const duration =
    execution === null ? '' : ` for ${formatDuration(now_s - execution.started_unix_s)}`;
  return { text: spoken + duration, spoken, tone: 'busy', hint: null };
}

function describeIdle(session: ISession, now_s: number): IDescription {
  const idle_s = now_s - session.last_active_unix_s;
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

function plain(text: string, tone: Tone): IDescription {
  return { text, spoken: text, tone, hint: null };
}
