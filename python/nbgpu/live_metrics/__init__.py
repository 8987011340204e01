"""What accelerators do, shown in the notebook: as a table, as rows for plots, and as charts under a cell."""
