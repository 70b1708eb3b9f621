"""All runs of a results folder as one data frame, with an index that spares reading a record twice.

The index is derived: it knows each record by time, size and inode, and is made anew from the records when it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.files import write_atomically
from workbench.results.folders import RECORD, RUNS

if TYPE_CHECKING:
    import pandas as pd

INDEX = "runs.index.parquet"
FORMAT = 2
"""Of the index; another number makes it anew."""
Stamp = tuple[int, int, int]


def collect(results: Path) -> pd.DataFrame:
    """Every run, a completed one with a row for each split.

    Returns:
        run, setting_id, seed, state, split (None where it is not completed), the metrics as shares, code,
        steps, training_seconds (of the training alone), seconds (with the evaluation), gpu_hours, processes, and kind:
        what the run's speed depends on, as JSON. A record that cannot be read has the state `damaged`.
    """
    import pandas as pd

    found = dict(_records(results / RUNS))
    known = _index(results / INDEX)
    stamps = pd.DataFrame.from_dict(found, orient="index", columns=["mtime", "size", "inode"])
    if known is None or known.empty:
        kept = None
        fresh = list(found)
    else:
        here = stamps.reindex(known["run"])
        same = (here.to_numpy() == known[["mtime", "size", "inode"]].to_numpy()).all(axis=1)
        kept = known[same]
        seen = set(kept["run"])
        fresh = [run for run in found if run not in seen]
    if kept is None or known is None or fresh or len(kept) != len(known):
        rows = [row for run in fresh for row in _rows(results / RUNS / run, run, found[run])]
        frame = pd.DataFrame(rows, columns=_columns(rows, kept))
        frame = frame if kept is None or kept.empty else pd.concat([kept, frame], ignore_index=True)
        _write(results / INDEX, frame)
    else:
        frame = kept
    return frame.drop(columns=["mtime", "size", "inode"]).sort_values("run", kind="stable", ignore_index=True)


def _records(runs: Path) -> Iterator[tuple[str, Stamp]]:
    """Each run's name and its record's stamp."""
    with contextlib.suppress(FileNotFoundError), os.scandir(runs) as settings:
        for setting in settings:
            with contextlib.suppress(NotADirectoryError), os.scandir(setting.path) as seeds:
                for seed in seeds:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        stat = os.stat(f"{seed.path}/{RECORD}")  # noqa: PTH116 - ten thousand times
                        yield f"{setting.name}/{seed.name}", (stat.st_mtime_ns, stat.st_size, stat.st_ino)


FIELDS = ("state", "steps", "training_seconds", "seconds", "gpu_hours", "processes")


def _rows(folder: Path, run: str, stamp: Stamp) -> list[dict[str, Any]]:
    setting_id, _, seed = run.rpartition("/seed")
    shared: dict[str, Any] = {"run": run, "setting_id": setting_id, "seed": int(seed) if seed.isdigit() else -1}
    shared |= dict(zip(("mtime", "size", "inode"), stamp, strict=True))
    try:
        record = json.loads((folder / RECORD).read_bytes())
        shared |= {name: record.get(name) for name in FIELDS} | {"code": record.get("provenance", {}).get("code")}
        shared["kind"] = kind_of(record["identity"]["config"]) if "identity" in record else None
        metrics = record["metrics"] if shared["state"] == "completed" else {None: {}}
        return [{**shared, "split": split, **values} for split, values in metrics.items()]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError):
        return [{**shared, "state": "damaged"}]


def kind_of(config: dict[str, Any]) -> str:
    """What the speed of a run and the length of an epoch depend on, out of an identity's configuration, as JSON."""
    chosen = {
        "backbone": [config["backbone"].get(name) for name in ("name", "image_size", "attention", "decoder_depth")],
        "data": [config["data"].get(name) for name in ("dataset", "split_by", "recipe")],
        "fusion": [config["fusion"].get(name) for name in ("variant", "layers")],
        "splits": config["evaluation"].get("splits"),
        "text_encoder": config["text_encoder"].get("name"),
        "training": [
            config["training"].get(name) for name in ("batch_size", "precision", "cache_features", "freeze", "epochs")
        ],
    }
    return json.dumps(chosen, sort_keys=True)


def _columns(rows: list[dict[str, Any]], kept: pd.DataFrame | None) -> list[str]:
    first = ["run", "setting_id", "seed", "mtime", "size", "inode", *FIELDS, "code", "kind", "split"]
    metrics = [] if kept is None else [name for name in kept.columns if name not in first]
    return list(dict.fromkeys([*first, *metrics, *(name for row in rows for name in row)]))


def _index(file: Path) -> pd.DataFrame | None:
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(file)
    except Exception:  # gone, or damaged in any way: it is only an index
        return None
    if (table.schema.metadata or {}).get(b"workbench") != str(FORMAT).encode():
        return None
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _write(file: Path, frame: pd.DataFrame) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"workbench": str(FORMAT).encode()})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    with contextlib.suppress(OSError):  # a folder of somebody else's, or a full disk: it is only an index
        write_atomically(file, sink.getvalue().to_pybytes())
