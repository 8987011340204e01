/** What stands beside the axes of a chart, and how much room that takes. Pure. */

/** Of a character in the axes' font, at its widest. */
const CHARACTER_PX = 7;
const GAP_PX = 12;
/** Of the shortest words, so that most charts begin at the same place. */
const FEWEST_CHARACTERS = 4;

/** The width of an axis with these words at its marks; uPlot has none yet when it asks first. */
export function widthOfAxis(words: readonly string[] | null): number {
  const longest = Math.max(FEWEST_CHARACTERS, ...(words ?? []).map(({ length }) => length));
  return GAP_PX + CHARACTER_PX * longest;
}

/** The time of day of a mark, without seconds where all the marks are at whole minutes. */
export function formatClock(unix_s: number, step_s: number): string {
  const time = new Date(unix_s * 1000);
  const parts = [time.getHours(), time.getMinutes(), ...(step_s < 60 ? [time.getSeconds()] : [])];
  return parts.map(part => String(part).padStart(2, '0')).join(':');
}

/** Empty where words that stand centred below a mark would be cut by the chart's edge, which is `room_px` from it. */
export function whereItFits(words: string, room_px: number): string {
  return room_px < (words.length * CHARACTER_PX) / 2 ? '' : words;
}
