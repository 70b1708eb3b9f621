"""Arguments that nobody means, for commands that change nothing: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

TEXTS: tuple[str, ...] = (
    "", " ", "-", "--", "..", ".", "/", "../../../etc/passwd", "/etc/passwd", "/proc/self/mem", "a/b", "~", "~nobody/x",
    "$HOME", "%s", "{}", "\n", "a\nb", "\x1b[31mred", "é漢字🙂", "\u202eabc", "\udcff", "a" * 300, "x" * 5000, "9" * 26,
    "9" * 5000, "-1", "-0", "0", "1e9", "nan", "inf", "0-99999999999", "0-", "-3-4", "1,1", "4-2", "[", "*", "[a", "[!",
    "{x: ", "null", "true", "a=b", "=", "=1", "a.b.c=1", "١", "²", "0x10", "1_0", "val:1:2", "val:x:y", "::", "@",
    "&a [*a]", "!!python/none", "a" * 100 + "/" + "b" * 100, "seed0", "seed-1", "None", "ground.yaml", "-o", "--seeds",
)  # fmt: skip
NO_SEEDS = ("9" * 26, "9" * 400, "-1", "x", "1e3", "", "1.5", "²", "nan", "0x1", "-9" * 20, "1 2")
"""None of them is a seed: with one, a training would begin."""
KEYS = (
    "training.steps", "training.batch_size", "backbone.image_size", "backbone.name", "backbone.checkpoint", "fusion",
    "fusion.layers", "fusion.variant", "text_encoder.name", "text_encoder.layer", "text_encoder.max_tokens", "data",
    "data.dataset", "evaluation.splits", "evaluation.threshold", "machine.threads", "machine.data_root", "training",
    "start_from.file", "start_from.run", "machine", "training.learning_rate", "machine.checkpoint_root", "nonsense",
)  # fmt: skip


def options(rng: random.Random, grid: Path, pipe: Path, seeded: bool = True) -> tuple[str, ...]:
    """A command and its arguments; the grid is a sound one."""
    text, other, g = rng.choice((*TEXTS, str(pipe))), rng.choice(TEXTS), str(grid)
    key = rng.choice(KEYS)
    forms: Sequence[tuple[str, ...]] = (
        ("status", g, "--only", text), ("status", g, "--seeds", text), ("status", text), ("status", "--results", text),
        ("status", g, "--preset", text), ("logs", g, text), ("logs", g, "a", "--seed", text), ("logs", text, "a"),
        ("logs", g, "a", "--lines", text), ("table", g, "--seeds", text), ("table", g, "--format", text),
        ("table", g, "--explain", text, other, "miou"), ("table", g, "--explain", "a", text, other),
        ("table", g, "--by", text), ("table", g, "--from", text), ("table", text), ("plan", text),
        ("plan", g, "--profile", text), ("config", g, text), ("config", text), ("config", text, other),
        ("config", g, "a", "-o", text), ("config", g, "a", "-o", f"{key}={text}"), ("status", g, "--data-root", text),
        ("config", g, "b", "-o", f"{key}={other}"), ("config", g, "b", "-o", f"{text}={other}"),
        ("config", g, "a", "--checkpoint-root", text), ("figure", text, g), ("figure", "bars", g, "--columns", text),
        ("figure", "bars", g, "--as", text, "--from", other), ("figure", "bars", g, "--settings", text, "--seeds", "9"),
        ("figure", "predictions", g, "--expressions", text, "--seeds", "9"), ("check", text), ("variants", text),
        ("evaluate", "--predictions", text, "--dataset", other), ("data", "show", text), ("data", "check", text),
        ("data", "show", "refcoco", "--root", text), ("data", text), ("predict", text, other, "--run", "x"),
        ("predict", text), ("predict", g, other, "--run", text), ("summarise", g, "--seeds", text),
        ("import-released", text, "--variant", "l_dit"), ("import-released", g, "--variant", text),
        ("retry", g, "--class", text, "--dry-run"), ("submit", g, "--dry-run", "--workers", text),
        ("submit", g, "--dry-run", "--seeds", text), ("submit", g, "--dry-run", "--only", text),
        ("submit", text, "--dry-run"), ("submit", g, "--dry-run", "--profile", text), ("doctor", "--profile", text),
        ("report", text), ("cancel", text), ("cancel", g, "--seeds", text), ("cancel", g, "--only", text), (text,),
        (text, g), ("table", g, text), ("status", g, text), ("train", g, "a", "--seed", rng.choice(NO_SEEDS)),
        ("train", g, text, "--seed", "-1"), ("gc", text), ("summarise", text), ("attention", text), ("attribute", text),
    )  # fmt: skip
    return rng.choice(forms)
