"""A grid file to its settings and runs. Tables, figures and launching all stand above it."""
