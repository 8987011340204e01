// What jsdom lacks and Lumino reads when it is imported.
const lacking = globalThis as { DragEvent?: unknown; matchMedia?: unknown };

lacking.DragEvent ??= class DragEvent extends MouseEvent {};
lacking.matchMedia ??= (media: string) => ({
  media,
  matches: false,
  addEventListener: () => undefined,
  removeEventListener: () => undefined
});
