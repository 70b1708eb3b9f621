"""Grid files to runs: `load_grid` reads one, `Grid` is what it means; `evaluated` holds what is stored of its runs."""

from workbench.grids.document import Document, GridDocument
from workbench.grids.file import GridError, GridFile, ReportConfig, read_yaml
from workbench.grids.grid import Grid, Need, Run, parse_seeds, with_absolute_paths
from workbench.grids.loading import Progress, check_grid, is_preset, load_grid, load_preset, setting_names

__all__ = [
    "Document",
    "Grid",
    "GridDocument",
    "GridError",
    "GridFile",
    "Need",
    "Progress",
    "ReportConfig",
    "Run",
    "check_grid",
    "is_preset",
    "load_grid",
    "load_preset",
    "parse_seeds",
    "read_yaml",
    "setting_names",
    "with_absolute_paths",
]
