/** How accelerators and offers read: what there is, what is free, what it costs. */

import type { IAccelerator, IOffer, ISession } from '../state';
import { formatMoney } from './quantities';

const COUNTS = [1, 2, 4, 8] as const;

/** "8 of 8 free", "busy", "busy, 3 waiting"; what any number can share is "free". */
export function describeAvailability(offer: IOffer): string {
  if (offer.shared) {
    return 'free';
  }
  const waiting = offer.queued > 0 ? `, ${offer.queued} waiting` : '';
  return offer.free === 0 ? `busy${waiting}` : `${offer.free} of ${offer.total} free${waiting}`;
}

/** "$2.10/h"; null where the owner set no price. */
export function describePrice(offer: IOffer): string | null {
  return offer.price_per_hour === null
    ? null
    : `${formatMoney(offer.price_per_hour, offer.currency)}/h`;
}

/** "H100", "H100 ×8". */
export function describeCount(type: string, count: number): string {
  return count === 1 ? type : `${type} ×${count}`;
}

/** "H100 ×8", "A10", "H100 ×2, A10"; null for none. */
export function describeAccelerators(accelerators: readonly IAccelerator[]): string | null {
  const counts = new Map<string, number>();
  for (const { type } of accelerators) {
    counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  const parts = [...counts].map(([type, count]) => describeCount(type, count));
  return parts.length === 0 ? null : parts.join(', ');
}

/** Whether a word about simulation is due: a CPU worker answers to the name. */
export function isSimulated(session: ISession): boolean {
  return session.accelerators.some(accelerator => accelerator.simulated);
}

/** Whether the session holds GPUs, real or simulated, and not just a share of the CPU. */
export function holdsGpu(session: ISession): boolean {
  return session.accelerators.some(accelerator => !accelerator.shared);
}

/** The numbers of accelerators that can be asked for with one click. */
export function countsOf(offer: IOffer): readonly number[] {
  return offer.shared ? [1] : COUNTS.filter(count => count <= offer.total);
}

/** The spec that asks for that: "H100x8". */
export function specOf(offer: IOffer, count: number): string {
  return count === 1 ? offer.type : `${offer.type}x${count}`;
}
