/** How messages of the Python side become sentences of the page. */

/** A message as the Python side words it, with a capital and, unless it goes on over lines, a full stop. */
export function asSentence(message: string): string {
  const capital = asTitle(message);
  return capital.includes('\n') || /[.!?:]$/.test(capital) ? capital : `${capital}.`;
}

/** The same words with a capital. */
export function asTitle(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** "1st", "2nd", "3rd", "11th". */
export function ordinal(number: number): string {
  const last = number % 10;
  const teen = Math.floor(number / 10) % 10 === 1;
  const ending = teen ? 'th' : (['th', 'st', 'nd', 'rd'][last] ?? 'th');
  return `${number}${ending}`;
}

/** "1 package", "214 packages". */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
