"""The process that runs the cases, and the guard that notes what a case does beyond its folder."""

from __future__ import annotations

import copyreg
import faulthandler
import gc
import importlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pycocotools import mask as coco_mask

from tests.data.fuzzing.cases import (
    IMAGE,
    PAYLOAD,
    PLACE,
    PREDICTIONS,
    PRISTINE,
    SENTINEL,
    Case,
    Files,
    Hostile,
    evaluable,
    make,
    of_file,
    picture,
    plan,
    pristine,
    read_back,
    write_pristine,
)
from tests.data.fuzzing.masks import header, npy

SECONDS = 20
MEMORY = 2 * 1024**3
"""Of address space beyond what the libraries take."""
MOST_DEATHS = 40
SLOW_TO_LOAD = (
    "workbench.cli",
    "workbench.data.check",
    "workbench.data.counts",
    "workbench.data.datasets",
    "workbench.evaluation.predictions",
    "workbench.paper.breakdowns",
)
"""Loaded once, before the guard is on: torch and pyarrow load libraries and read the time zone."""


class Hang(BaseException):
    """A case took too long."""


def _ring(_signal: int, _frame: Any) -> NoReturn:
    raise Hang


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.mkfifo": 1, "shutil.rmtree": 1, "shutil.move": 2,
    "shutil.copyfile": 2, "shutil.copytree": 2, "shutil.chown": 1, "shutil.unpack_archive": 2, "tempfile.mkdtemp": 1,
    "tempfile.mkstemp": 1,
}  # fmt: skip
"""Events that change files, and how many of their arguments are paths."""
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn",
    "subprocess.Popen", "socket.", "ctypes.", "pickle.find_class", "urllib.", "webbrowser.", "ftplib.", "http.",
    "smtplib.", "code.__new__", "os.kill", "signal.", "sqlite3.", "builtins.input", "os.chdir",
)  # fmt: skip


class Guard:
    """Notes what a case does that it should not, by the interpreter's audit events, and keeps it from doing it."""

    def __init__(self, own: Path) -> None:
        import workbench

        self.writable = str(own / "root" / "prepared"), str(own / "results")
        packages = Path(coco_mask.__file__).parents[1], Path(workbench.__file__).parent
        self.readable = tuple(map(str, (own, sys.prefix, sys.base_prefix, *packages)))
        self.known: frozenset[str] | None = None
        self.found: list[str] = []
        self.on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (what := self._wrong(event, arguments)):
            self.found.append(what)
            raise PermissionError(what)

    def _wrong(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "open":
            path, _, flags = arguments
            written = bool((flags or 0) & WRITING)
            if path != os.devnull and not self._within(path, self.writable if written else self.readable):
                return f"open {path!r} {'for writing' if written else 'for reading'}"
        elif event == "import":
            name = str(arguments[0])
            if self.known is not None and name.partition(".")[0] not in self.known:
                return f"import {name}"
        elif event in PATHS:
            for path in arguments[: PATHS[event]]:
                if not self._within(path, self.writable):
                    return f"{event} {path!r}"
        elif event.startswith(FORBIDDEN):
            return f"{event} {arguments!r:.200}"
        return ""

    def _within(self, path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        full = os.path.realpath(os.path.abspath(os.fsdecode(path)).replace("\0", ""))  # noqa: PTH100
        return any(full == folder or full.startswith(folder + os.sep) for folder in folders)


def _write(root: Path, files: Files) -> None:
    for folder in {os.path.dirname(name) for name in files}:  # noqa: PTH120
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not name.endswith("/"):
            (root / name).write_bytes(content)


class Ground:
    """A case's folder. Files that two cases in a row share are left as they are: nobody may write to them."""

    def __init__(self, own: Path) -> None:
        self.own = own
        self._there: Files | None = None

    def lay(self, case: Case) -> None:
        root, results = self.own / "root", self.own / "results"
        prepared = any(name.startswith("prepared") for name in case.files)
        if self._there is None or self._there.keys() != case.files.keys() or case.results:
            shutil.rmtree(self.own, ignore_errors=True)
            _write(root, case.files)
            _write(results, case.results)
            results.mkdir(exist_ok=True)
        else:
            _write(root, {n: c for n, c in case.files.items() if c != self._there[n]})
            for folder in (results, *([] if prepared else [root / "prepared"])):
                if folder.is_dir() and any(folder.iterdir()):
                    shutil.rmtree(folder)
            results.mkdir(exist_ok=True)
        known = not (prepared and case.command == "prepare") and not case.results
        self._there = case.files if known else None


def _arguments(case: Case, own: Path) -> list[str]:
    root, results = str(own / "root"), str(own / "results")
    match case.command:
        case "prepare":
            found = ["data", "prepare", "--root", root, "--results", results]
        case "check":
            found = ["data", "check", "--root", root, "--checkpoint-root", str(own / "checkpoints")]
        case "evaluate":
            file = str(own / "root" / PREDICTIONS)
            found = ["evaluate", "--predictions", file, "--root", root, "--results", results, "--dataset", case.name]
    return [*found, *case.more, *(["--", case.name] if case.command != "evaluate" else [])]


def run(case: Case, ground: Ground, guard: Guard) -> dict[str, Any]:
    """One case's outcome: code (exit code, or None), err (the end of what it said), out, seconds, faults."""
    from workbench import cli

    ground.lay(case)
    guard.found = []
    faults: list[str] = []
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    real = sys.stdout, sys.stderr, sys.argv
    code: int | None = None
    began = time.monotonic()
    try:
        sys.stdout, sys.stderr, sys.argv = out, err, ["workbench", *_arguments(case, ground.own)]
        faulthandler.dump_traceback_later(SECONDS + 5, exit=True, file=sys.__stderr__)
        signal.alarm(SECONDS)
        guard.on = True
        try:
            cli.main()
            code = 0
        finally:
            signal.alarm(0)
            guard.on = False
            faulthandler.cancel_dump_traceback_later()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Hang:
        faults.append(f"took more than {SECONDS} s")
    except BaseException:
        faults.append(traceback.format_exc(limit=-8))
    finally:
        sys.stdout, sys.stderr, sys.argv = real
    seconds = time.monotonic() - began
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.detach().getvalue().decode())  # type: ignore[attr-defined]
    faults += guard.found
    return {"code": code, "err": said[1][-8000:], "out": said[0][-300:], "seconds": round(seconds, 3), "faults": faults}


def status(name: str) -> int:
    """Of this process, in bytes: VmRSS is its memory, VmHWM the most it had, VmSize its address space."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def warm_up(ground: Ground, guard: Guard) -> None:
    """Run the commands on what is sound, and on a little that is not, so that all modules are there."""
    for form, name in (("released", "refcoco"), ("grefs", "grefcoco"), ("refs", "refcoco")):
        for command in ("check", "prepare"):
            outcome = run(Case(command, name, pristine(form)), ground, guard)
            assert outcome["code"] == 0, outcome
    PRISTINE["prepared"] = {f: c for f, c in read_back(ground.own / "root").items() if f.startswith(PLACE)}
    by = [word for name in ("length", "kind", "size", "distractors") for word in ("--by", name)]
    outcome = run(Case("evaluate", "refcoco", evaluable(), more=("--name", "mine", *by)), ground, guard)
    assert outcome["code"] == 0, outcome
    assert run(of_file("check", "refs", IMAGE, b"no picture"), ground, guard)["code"] == 1
    assert run(of_file("prepare", "refs", IMAGE, b"no picture"), ground, guard)["code"] == 2


def work(scratch: Path, process: int, first: int, only: str, times: float) -> None:
    """Run the cases from that number on."""
    own = scratch / "case"
    ground, guard = Ground(own), Guard(own)
    sys.addaudithook(guard)
    os.chdir(scratch / "outside")
    write_pristine(scratch / "pristine")
    warm_up(ground, guard)
    gc.freeze()
    guard.known = frozenset(name.partition(".")[0] for name in sys.modules) - {PAYLOAD}
    copyreg.add_extension("os", "system", 77)
    signal.signal(signal.SIGALRM, _ring)
    limit = status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    around = _listing(scratch)
    done = 0
    with (scratch / "outcomes.jsonl").open("a") as lines:
        for number, (name, seed) in enumerate(plan(times)):
            if number < first or only not in f"{name} {seed}":
                continue
            (scratch / "at.json").write_text(json.dumps({"number": number, "kind": name, "seed": seed}))
            case = make(name, seed)
            # From here on the most memory is counted anew: making a case may take more than reading it does.
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            outcome = run(case, ground, guard)
            grown = status("VmHWM") - before
            if (now := _listing(scratch)) != around:
                outcome["faults"].append(f"wrote beside its folder: {sorted(now ^ around)}")
                around = now
            line = {"kind": name, "seed": seed, "refused": case.refused, "command": case.command, **outcome}
            print(json.dumps({**line, "grown": grown}), file=lines, flush=True)
            done = number + 1
        print(json.dumps({"cases": done, "processes": process}), file=lines, flush=True)


def _listing(scratch: Path) -> frozenset[str]:
    """All that is there but for the case's own folder."""
    here = {entry.name for entry in os.scandir(scratch)} - {"case"}
    return frozenset(here | {f"outside/{entry.name}" for entry in os.scandir(scratch / "outside")})


def main(scratch: Path, only: str = "", times: float = 1) -> int:
    outside = scratch / "outside"
    outside.mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(picture())
    (outside / f"{PAYLOAD}.py").write_text(f"from pathlib import Path\nPath({str(outside / SENTINEL)!r}).touch()\n")
    (outside / "object.npy").write_bytes(npy(header(descr="'|O'"), body=pickle.dumps(Hostile())))
    sys.path.append(str(outside))
    outcomes = scratch / "outcomes.jsonl"
    outcomes.touch()
    for name in SLOW_TO_LOAD:
        importlib.import_module(name)

    first = 0
    for process in range(1, MOST_DEATHS + 1):
        (scratch / "at.json").write_text("null")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(scratch, process, first, only, times)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        _, how = os.waitpid(child, 0)
        if how == 0:
            return 0
        at = json.loads((scratch / "at.json").read_text())
        if at is None:
            return 1
        died = f"the process died: exit {os.waitstatus_to_exitcode(how)}"
        line = {"code": None, "err": "", "out": "", "seconds": 0, "refused": False, "faults": [died], "grown": 0}
        with outcomes.open("a") as lines:
            print(json.dumps({**at, **line}), file=lines)
        first = at["number"] + 1
    return 1
