/** The commands of menus, palette and shortcuts; all act on the notebook in front. */

import type { JupyterFrontEnd } from '@jupyterlab/application';

import { canRunOnGpu, runOnGpu } from './cells/run_on_gpu';
import { CommandId } from './command_ids';
import { gpuIcon } from './icon';
import { hasKernel, sessionOf } from './lookup';
import type { Page } from './page';
import { addPool } from './sidebar/pool_dialog';
import type { ISession } from './state';

const NO_ARGUMENTS = { args: { type: 'object' as const, properties: {} } };

export const PALETTE: readonly string[] = Object.values(CommandId);

/** Adds what acts on the session of the notebook in front. */
export function addSessionCommands(commands: JupyterFrontEnd['commands'], page: Page): void {
  const session = () =>
    page.feed.isRunning
      ? sessionOf(page.state, page.notebook.current?.kernelId ?? null)?.session
      : undefined;
  const add = (
    id: string,
    label: string,
    caption: string,
    execute: (session: ISession) => Promise<void>,
    isEnabled: (session: ISession) => boolean = () => true
  ) => {
    commands.addCommand(id, {
      label,
      caption,
      describedBy: NO_ARGUMENTS,
      isEnabled: () => {
        const found = session();
        return found !== undefined && isEnabled(found);
      },
      execute: async () => {
        const found = session();
        if (found !== undefined) {
          await execute(found);
        }
      }
    });
  };
  const { actions } = page;
  const isReady = ({ phase }: ISession) => phase === 'ready';
  add(
    CommandId.interrupt,
    'Interrupt GPU Session',
    'Stop the cell that runs in the session of this notebook',
    found => actions.interrupt(found),
    ({ kernel_state }) => kernel_state === 'executing'
  );
  add(
    CommandId.showStacks,
    'Show Stacks of GPU Session',
    'Show at which lines the code of the session of this notebook is now, also while it runs',
    found => actions.showStacks(found),
    isReady
  );
  add(
    CommandId.restart,
    'Restart GPU Session…',
    'A fresh kernel on the same accelerators',
    found => actions.restart(found),
    isReady
  );
  add(
    CommandId.detach,
    'Detach from GPU Session',
    'Leave the session running, without this notebook',
    found => actions.detach(found),
    isReady
  );
  add(
    CommandId.close,
    'Close GPU Session…',
    'End the session of this notebook and free its accelerators',
    found => actions.close(found)
  );
  page.changed.connect(() => {
    for (const id of [
      CommandId.interrupt,
      CommandId.showStacks,
      CommandId.restart,
      CommandId.detach,
      CommandId.close,
      CommandId.attach
    ]) {
      if (commands.hasCommand(id)) {
        commands.notifyCommandChanged(id);
      }
    }
  });
}

/** Adds what runs a cell, and what opens something. */
export function addOpeningCommands(
  commands: JupyterFrontEnd['commands'],
  page: Page,
  showPanel: () => void,
  openCharts: () => Promise<void>
): void {
  commands.addCommand(CommandId.showPanel, {
    label: 'GPU Panel',
    caption: 'Show the accelerators and sessions',
    icon: gpuIcon,
    describedBy: NO_ARGUMENTS,
    execute: showPanel
  });
  commands.addCommand(CommandId.attach, {
    label: 'Attach to Accelerator…',
    caption: 'Choose an accelerator for this notebook in the GPU panel',
    describedBy: NO_ARGUMENTS,
    isEnabled: () => hasKernel(page.notebook.current),
    execute: () => {
      showPanel();
      document
        .querySelector<HTMLInputElement>('#nbgpu-panel input[name="nbgpu-offer"]:checked')
        ?.focus();
    }
  });
  commands.addCommand(CommandId.openCharts, {
    label: 'GPU Charts',
    caption: 'Show the charts of all GPUs',
    icon: gpuIcon,
    describedBy: NO_ARGUMENTS,
    execute: openCharts
  });
  commands.addCommand(CommandId.addPool, {
    label: 'Add GPU Pool…',
    caption: 'Connect to the agent of another machine',
    describedBy: NO_ARGUMENTS,
    execute: () => addPool(page.server)
  });
  commands.addCommand(CommandId.runCell, {
    label: 'Run This Cell on GPU',
    caption: 'Begin the cell with %%gpu and run it',
    icon: gpuIcon,
    describedBy: NO_ARGUMENTS,
    isEnabled: () => canRunOnGpu(page.notebook.panel),
    execute: async () => {
      const panel = page.notebook.panel;
      if (panel !== null) {
        await runOnGpu(panel);
      }
    }
  });
}
