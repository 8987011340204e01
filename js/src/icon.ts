/** The icons of nbgpu: a graphics card, seen from the side of its fan; and what JupyterLab has none for. */

import { LabIcon } from '@jupyterlab/ui-components';

import gpuSvg from '../style/icons/gpu.svg';
import pauseSvg from '../style/icons/pause.svg';

export const gpuIcon = new LabIcon({ name: 'nbgpu:gpu', svgstr: gpuSvg });
export const pauseIcon = new LabIcon({ name: 'nbgpu:pause', svgstr: pauseSvg });
