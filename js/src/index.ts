/** The plugins of nbgpu for JupyterLab and Notebook 7. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { IMainMenu } from '@jupyterlab/mainmenu';
import { INotebookTracker } from '@jupyterlab/notebook';

import { Feed } from './feed';
import { gpuIcon } from './icon';
import { NotebookInFront } from './notebook';
import { GpuPanel } from './panel';

/** Below the file browser, the running sessions and the table of contents. */
const RANK = 450;
const SHOW_COMMAND = 'nbgpu:show-panel';

const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: '@nbgpu/labextension:panel',
  description: 'Adds a panel with the accelerators and sessions to the left sidebar.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ILayoutRestorer, ICommandPalette, IMainMenu],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    mainMenu: IMainMenu | null
  ): void => {
    const feed = new Feed(app.serviceManager.serverSettings);
    const panel = new GpuPanel(feed, new NotebookInFront(tracker));
    restorer?.add(panel, 'nbgpu-panel');
    app.shell.add(panel, 'left', { rank: RANK });

    // Notebook 7 has no icons at its sides: there the menu and the palette are the only way
    app.commands.addCommand(SHOW_COMMAND, {
      label: 'GPU Panel',
      caption: 'Show the accelerators and sessions',
      icon: gpuIcon,
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => {
        app.shell.activateById(panel.id);
      }
    });
    palette?.addItem({ command: SHOW_COMMAND, category: 'GPU' });
    mainMenu?.viewMenu.addGroup([{ command: SHOW_COMMAND }], 5);
  }
};

export default [panelPlugin];
