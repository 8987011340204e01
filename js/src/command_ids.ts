/** The names of the commands. */

export const CommandId = {
  showPanel: 'nbgpu:show-panel',
  openCharts: 'nbgpu:open-charts',
  attach: 'nbgpu:attach',
  detach: 'nbgpu:detach',
  interrupt: 'nbgpu:interrupt',
  showStacks: 'nbgpu:show-stacks',
  restart: 'nbgpu:restart',
  close: 'nbgpu:close',
  addPool: 'nbgpu:add-pool',
  runCell: 'nbgpu:run-cell'
} as const;
