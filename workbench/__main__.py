"""`python -m workbench`: the command line, also where the project is not installed.

`doctor --gpu` works even where the packages of the command line are missing.
"""

import sys

if __name__ == "__main__":
    try:
        from workbench.cli import script
    except ModuleNotFoundError as missing:
        if "--gpu" not in sys.argv:
            sys.exit(f"error: the package {missing.name} is missing; `make setup` installs it")
        from pathlib import Path

        from workbench.benchmarks.gpu import examine

        out = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv[:-1] else None
        answers = examine(out, lambda line: print(line, flush=True))
        sys.exit(2 * any(answer.get("status") == "error" for answer in answers.values()))
    script()
