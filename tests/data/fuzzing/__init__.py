"""Damaged data sets, thousands of them, each given to the command line.

    python -m tests.data.fuzzing SCRATCH [PART OF "KIND SEED"] [TIMES AS MANY]

Every case is a function of its kind and seed. It gets a folder of its own, SCRATCH/case, outside of which nothing may
be written. SCRATCH/outcomes.jsonl gets one line per case, and one at the end. The cases run in a fork: one that kills
the whole process is an outcome like any other.
"""

from tests.data.fuzzing import forms, masks, pickles, names, pictures, tables, predictions, odd  # noqa: F401, I001
from tests.data.fuzzing.cases import KINDS

__all__ = ["KINDS"]
