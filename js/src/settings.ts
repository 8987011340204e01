/** What a person chose in JupyterLab's settings, with what holds where there are none. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal, type ISignal } from '@lumino/signaling';

export const PLUGIN_ID = '@nbgpu/labextension:plugin';

export interface ISettingValues {
  /** Keep one line about each execution on a GPU in the cell's metadata, and show it. */
  provenance: boolean;
  /** Say so under a running cell where a GPU is held and idle. */
  warnings: boolean;
  statusBar: boolean;
}

const DEFAULTS: ISettingValues = { provenance: true, warnings: true, statusBar: true };

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
      const { provenance, warnings, statusBar } = settings.composite;
      this._values = {
        provenance: provenance !== false,
        warnings: warnings !== false,
        statusBar: statusBar !== false
      };
      this._changed.emit(this._values);
    };
    settings.changed.connect(read);
    read();
  }
}
