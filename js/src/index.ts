/** The plugins of nbgpu for JupyterLab and Notebook 7. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  ICommandPalette,
  IThemeManager,
  IToolbarWidgetRegistry,
  MainAreaWidget,
  Notification,
  WidgetTracker
} from '@jupyterlab/apputils';
import { IMainMenu } from '@jupyterlab/mainmenu';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { Actions } from './actions';
import { NotebookCells } from './cells/notebook_cells';
import { ChartsWidget } from './charts/widget';
import { ClosingWarnings } from './closing_warnings';
import { CommandId } from './command_ids';
import { addOpeningCommands, addSessionCommands, PALETTE } from './commands';
import { Feed } from './feed';
import { History } from './history';
import { NotebookInFront } from './notebook';
import { IPage, Page } from './page';
import { Server } from './server';
import { PLUGIN_ID, Settings } from './settings';
import { GpuPanel } from './sidebar/panel';
import { StatusBarItem } from './statusbar';
import { SessionToolbarItem } from './toolbar';
import { asSentence } from './words/sentences';

/** Below the file browser, the running sessions and the table of contents. */
const RANK = 450;
const PALETTE_CATEGORY = 'GPU';

const pagePlugin: JupyterFrontEndPlugin<Page> = {
  id: PLUGIN_ID,
  description: 'Follows the pools for all that shows something of them.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ISettingRegistry],
  provides: IPage,
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    registry: ISettingRegistry | null
  ): Page => {
    const { serverSettings } = app.serviceManager;
    const feed = new Feed(serverSettings);
    const server = new Server(serverSettings);
    const inFront = new NotebookInFront(tracker);
    const openNotebookOf = async (kernelId: string): Promise<boolean> => {
      for (const session of app.serviceManager.sessions.running()) {
        if (session.kernel?.id === kernelId) {
          await app.commands.execute('docmanager:open', { path: session.path });
          return true;
        }
      }
      return false;
    };
    const settings = new Settings();
    void settings.load(registry);
    const actions = new Actions(server, feed, inFront, openNotebookOf);
    return new Page(feed, server, new History(), inFront, actions, settings);
  }
};

const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: '@nbgpu/labextension:panel',
  description:
    'Adds a panel with the accelerators and sessions to the left sidebar, and wide charts.',
  autoStart: true,
  requires: [IPage],
  optional: [ILayoutRestorer, ICommandPalette, IMainMenu, IThemeManager],
  activate: (
    app: JupyterFrontEnd,
    page: Page,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    mainMenu: IMainMenu | null,
    themes: IThemeManager | null
  ): void => {
    const { commands, shell } = app;
    const panel = new GpuPanel(page, () => void commands.execute(CommandId.openCharts));
    const charts = new WidgetTracker<MainAreaWidget<ChartsWidget>>({ namespace: 'nbgpu-charts' });
    const openCharts = async () => {
      let widget = charts.find(() => true);
      if (widget === undefined) {
        widget = new MainAreaWidget({ content: new ChartsWidget(page, themes) });
        widget.id = 'nbgpu-charts-main';
        widget.title.label = widget.content.title.label;
        widget.toolbar.hide();
        // a layout, saved or restored, is without the widgets whose names it has not been told
        await charts.add(widget);
      }
      if (!widget.isAttached) {
        shell.add(widget, 'main');
      }
      if (!widget.isAttached) {
        // the main area of Notebook 7 holds its notebook, and takes nothing else
        shell.add(widget, 'down');
      }
      shell.activateById(widget.id);
    };
    const showPanel = () => {
      shell.activateById(panel.id);
    };
    addSessionCommands(commands, page);
    addOpeningCommands(commands, page, showPanel, openCharts);
    new ClosingWarnings(page);
    restorer?.add(panel, 'nbgpu-panel');
    if (restorer !== null) {
      void restorer.restore(charts, { command: CommandId.openCharts, name: () => 'charts' });
    }
    shell.add(panel, 'left', { rank: RANK });
    for (const command of PALETTE) {
      palette?.addItem({ command, category: PALETTE_CATEGORY });
    }
    // Notebook 7 has no icons at its sides: there the menu and the palette are the only way
    mainMenu?.viewMenu.addGroup([{ command: CommandId.showPanel }], 5);
    page.actions.problemChanged.connect((_, problem) => {
      // what fails while the panel shows it needs no other word
      if (problem !== null && !panel.isVisible) {
        Notification.error(asSentence(problem.message), {
          actions: [{ label: 'Show', callback: showPanel }]
        });
      }
    });
  }
};

const notebookPlugin: JupyterFrontEndPlugin<void> = {
  id: '@nbgpu/labextension:notebook',
  description:
    'Marks the cells that run on a GPU, and adds the session to the toolbar of notebooks.',
  autoStart: true,
  requires: [IPage, INotebookTracker],
  optional: [IToolbarWidgetRegistry],
  activate: (
    app: JupyterFrontEnd,
    page: Page,
    tracker: INotebookTracker,
    toolbars: IToolbarWidgetRegistry | null
  ): void => {
    toolbars?.addFactory<NotebookPanel>(
      'Notebook',
      'nbgpu-session',
      panel => new SessionToolbarItem(page, panel, app.commands)
    );
    const follow = (panel: NotebookPanel) => {
      new NotebookCells(page, panel);
    };
    tracker.forEach(follow);
    tracker.widgetAdded.connect((_, panel) => {
      follow(panel);
    });
  }
};

const statusBarPlugin: JupyterFrontEndPlugin<void> = {
  id: '@nbgpu/labextension:status-bar',
  description: 'Adds the load of the notebook’s accelerators to the status bar.',
  autoStart: true,
  requires: [IPage],
  optional: [IStatusBar],
  activate: (app: JupyterFrontEnd, page: Page, statusBar: IStatusBar | null): void => {
    if (statusBar === null) {
      return;
    }
    const item = new StatusBarItem(page, () => void app.commands.execute(CommandId.showPanel));
    statusBar.registerStatusItem('@nbgpu/labextension:status-bar', {
      item,
      align: 'right',
      rank: 50,
      isActive: () => item.isActive,
      activeStateChanged: item.activeChanged
    });
  }
};

export default [pagePlugin, panelPlugin, notebookPlugin, statusBarPlugin];
