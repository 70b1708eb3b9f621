"""A grid file to its settings and runs. Tables, figures and launching all stand above it."""

from workbench.grids.loading import Grid, GridError, Run, check_grid, load_grid, load_preset, parse_seeds

__all__ = ["Grid", "GridError", "Run", "check_grid", "load_grid", "load_preset", "parse_seeds"]
