/** How a session's environment and variables stand with its notebook's, in words. */

import type { IDifference, IPackageChange, ISession, ISharedVariable } from '../state';
import { formatSize } from './quantities';
import { count } from './sentences';
import { describeEnvironment } from './sessions';

/** A row that can be opened. */
export interface IFact {
  text: string;
  /** What it consists of, one a line; empty: the text says it all. */
  details: string[];
}

/** Whether there is something that a sync would give the session. */
export function differs(difference: IDifference | null): boolean {
  return (
    difference !== null &&
    difference.package_count + difference.file_count + difference.variables.length > 0
  );
}

/** "in sync, 214 packages", "2 packages differ: torch 2.12 → 2.13, …"; null before it is known. */
export function describeNotebookEnvironment(session: ISession): IFact | null {
  const { environment, difference } = session;
  if (session.phase === 'ready' && environment?.total != null) {
    const current = environment.current === null ? '' : `: ${environment.current}`;
    return plain(`installing ${environment.done ?? 0} of ${environment.total}${current}`);
  }
  if (difference !== null && differs(difference)) {
    return describeDifference(difference);
  }
  const text = describeEnvironment(session);
  return text === null ? null : plain(text);
}

function describeDifference(difference: IDifference): IFact {
  const { package_count, packages, file_count, files, variables } = difference;
  const parts: string[] = [];
  const first = packages[0];
  if (package_count > 0) {
    const named =
      first === undefined ? '' : `: ${describeChange(first)}${package_count > 1 ? ', …' : ''}`;
    parts.push(
      `${count(package_count, 'package')} ${package_count === 1 ? 'differs' : 'differ'}${named}`
    );
  }
  if (file_count > 0) {
    parts.push(`${count(file_count, 'file')} changed`);
  }
  if (variables.length > 0) {
    parts.push(`${count(variables.length, 'environment variable')} set`);
  }
  return {
    text: parts.join('; '),
    details: [
      ...withRest(packages.map(describeChange), package_count, 'package'),
      ...withRest(files, file_count, 'file'),
      ...variables.map(name => `$${name}`)
    ]
  };
}

/** "torch 2.12 → 2.13", "rich 14.1, new", "rich 14.1, removed", "mine 1.0, reinstalled". */
function describeChange({ name, before, now }: IPackageChange): string {
  if (before === null) {
    return `${name} ${now ?? ''}, new`;
  }
  if (now === null) {
    return `${name} ${before}, removed`;
  }
  return before === now ? `${name} ${now}, reinstalled` : `${name} ${before} → ${now}`;
}

/** "3 sent (12 MB), 2 handles"; null before it is known. */
export function describeVariables(session: ISession): IFact | null {
  const { variables } = session;
  if (variables === null) {
    return null;
  }
  const { sent_count, sent, sent_bytes, handle_count, handles } = variables;
  const parts = [
    ...(sent_count === 0 ? [] : [`${sent_count} sent (${formatSize(sent_bytes)})`]),
    ...(handle_count === 0 ? [] : [count(handle_count, 'handle')])
  ];
  return {
    text: parts.length === 0 ? 'none sent' : parts.join(', '),
    details: [
      ...withRest(
        sent.map(variable => describeVariable(variable, 'sent')),
        sent_count,
        'variable'
      ),
      ...withRest(
        handles.map(variable => describeVariable(variable, 'handle')),
        handle_count,
        'handle'
      )
    ]
  };
}

function describeVariable({ name, size_bytes }: ISharedVariable, kind: string): string {
  return [name, ...(size_bytes === null ? [] : [formatSize(size_bytes)]), kind].join(', ');
}

/** Says how many there are beside those that are named. */
function withRest(named: readonly string[], total: number, noun: string): string[] {
  const rest = total - named.length;
  return rest > 0 ? [...named, `and ${rest} more ${rest === 1 ? noun : `${noun}s`}`] : [...named];
}

function plain(text: string): IFact {
  return { text, details: [] };
}
