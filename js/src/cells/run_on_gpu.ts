/** Runs the cell that is selected on a GPU, by making it a `%%gpu` cell: what ran is what the notebook says. */

import { CodeCell } from '@jupyterlab/cells';
import { NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';

import { asGpuCell, hasOtherMagic, loadsMagics } from './usage';

const LOAD = '%load_ext nbgpu';
/** Loads the magics without a trace, where a cell of the notebook does so but has not run. */
const LOAD_QUIETLY = "get_ipython().run_line_magic('load_ext', 'nbgpu')";

/** Whether there is a cell that could run on a GPU. */
export function canRunOnGpu(panel: NotebookPanel | null): boolean {
  const cell = panel?.content.activeCell;
  return cell instanceof CodeCell && !hasOtherMagic(cell.model.sharedModel.getSource());
}

/**
 * Puts `%%gpu` in front of the active cell and runs it, as *Run All* would later.
 *
 * Where no cell of the notebook loads the magics, one that does is put at its top.
 */
export async function runOnGpu(panel: NotebookPanel): Promise<void> {
  const notebook = panel.content;
  const cell = notebook.activeCell;
  const model = notebook.model;
  if (!(cell instanceof CodeCell) || model === null || !canRunOnGpu(panel)) {
    return;
  }
  const source = cell.model.sharedModel.getSource();
  if (asGpuCell(source) !== source) {
    cell.model.sharedModel.setSource(asGpuCell(source));
  }
  const isLoaded = notebook.widgets.some(
    other => other instanceof CodeCell && loadsMagics(other.model.sharedModel.getSource())
  );
  if (!isLoaded) {
    model.sharedModel.insertCell(0, { cell_type: 'code', source: LOAD, metadata: {}, outputs: [] });
    notebook.activeCellIndex = notebook.widgets.indexOf(cell);
  }
  // queued by the kernel before the cell
  panel.sessionContext.session?.kernel?.requestExecute({
    code: LOAD_QUIETLY,
    silent: true,
    store_history: false,
    stop_on_error: false
  });
  await NotebookActions.run(notebook, panel.sessionContext);
}
