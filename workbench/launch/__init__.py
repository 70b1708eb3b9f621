"""From a grid to runs to submitted jobs, and back to their states."""
