// What jsdom lacks, and Lumino reads when it is imported or JupyterLab when it renders.
const lacking = globalThis as {
  DragEvent?: unknown;
  matchMedia?: unknown;
  requestIdleCallback?: unknown;
};

lacking.DragEvent ??= class DragEvent extends MouseEvent {};
lacking.matchMedia ??= (media: string) => ({
  media,
  matches: false,
  addEventListener: () => undefined,
  removeEventListener: () => undefined
});
lacking.requestIdleCallback ??= (callback: () => void) => setTimeout(callback, 0);
