"""Runs the cases; see the package."""

import sys
from pathlib import Path

from tests.data.fuzzing.harness import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), *sys.argv[2:3], *map(float, sys.argv[3:4])))
