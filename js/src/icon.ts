/** The icon of nbgpu: a graphics card, seen from the side of its fan. */

import { LabIcon } from '@jupyterlab/ui-components';

import gpuSvg from '../style/icons/gpu.svg';

export const gpuIcon = new LabIcon({ name: 'nbgpu:gpu', svgstr: gpuSvg });
