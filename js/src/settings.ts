/** What a person chose in JupyterLab's settings, with what holds where there are none. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal, type ISignal } from '@lumino/signaling';

import { IDLE_AFTER_S } from './cells/advice';

export const PLUGIN_ID = '@nbgpu/labextension:plugin';

export interface ISettingValues {
  /** Keep one line about each execution on a GPU in the cell's metadata, and show it. */
  provenance: boolean;
  /** Say so under a running cell where a GPU is held and idle. */
  warnings: boolean;
  /** How long a cell runs here before it is said that the GPU is idle meanwhile. */
  idleWarning_s: number;
  statusBar: boolean;
}

const DEFAULTS: ISettingValues = {
  provenance: true,
  warnings: true,
  idleWarning_s: IDLE_AFTER_S,
  statusBar: true
};

export class Settings {
  private _values: ISettingValues = DEFAULTS;
  private _changed = new Signal<this, ISettingValues>(this);

  get values(): ISettingValues {
    return this._values;
  }

  get changed(): ISignal<this, ISettingValues> {
    return this._changed;
  }

  /** Follows the registry; without one, or without the schema, the defaults hold. */
  async load(registry: ISettingRegistry | null): Promise<void> {
    if (registry === null) {
      return;
    }
    let settings: ISettingRegistry.ISettings;
    try {
      settings = await registry.load(PLUGIN_ID);
    } catch (error) {
      console.warn('nbgpu: the settings cannot be read; the defaults hold', error);
      return;
    }
    const read = () => {
      const { provenance, warnings, idleWarningSeconds, statusBar } = settings.composite;
      this._values = {
        provenance: provenance !== false,
        warnings: warnings !== false,
        idleWarning_s: typeof idleWarningSeconds === 'number' ? idleWarningSeconds : IDLE_AFTER_S,
        statusBar: statusBar !== false
      };
      this._changed.emit(this._values);
    };
    settings.changed.connect(read);
    read();
  }
}
