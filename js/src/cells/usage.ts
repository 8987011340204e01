/** Tells from a cell's text whether it has to do with GPUs. Pure. */

const COMMAND = /^[ \t]*%{1,2}gpu\b/m;
const LOADS = /\bload_ext\s+nbgpu\b|^[ \t]*(?:import|from)\s+nbgpu\b/m;
const CELL_MAGIC = /^\s*%%gpu\b/;

/** Whether the cell uses nbgpu in any way. */
export function usesGpu(source: string): boolean {
  return COMMAND.test(source) || LOADS.test(source);
}

/** Whether the cell loads what makes `%%gpu` known. */
export function loadsMagics(source: string): boolean {
  return LOADS.test(source);
}

/** The same cell, as one that runs on a GPU. */
export function asGpuCell(source: string): string {
  return CELL_MAGIC.test(source) ? source : `%%gpu\n${source}`;
}

/** Whether another cell magic has the cell, so that `%%gpu` cannot stand before it. */
export function hasOtherMagic(source: string): boolean {
  return /^\s*%%/.test(source) && !CELL_MAGIC.test(source);
}
