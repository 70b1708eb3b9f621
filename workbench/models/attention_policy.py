"""Which attention implementation runs where: a table of rules, of which the first that fits decides.

The shipped table was measured by `workbench bench attention`; another one, written by the same command for a machine,
replaces it when `WORKBENCH_ATTENTION_POLICY` names it. A choice depends only on device, dtype, gradient and number of
tokens, so it never changes during a run.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import ConfigError
from workbench.files import read_file

logger = logging.getLogger(__name__)
VARIABLE = "WORKBENCH_ATTENTION_POLICY"
SHIPPED = Path(__file__).parent.parent / "assets" / "attention_policy.json"


class Rule(BaseModel):
    """One row of the table; a field that is null fits everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    gradient: bool | None = None
    max_tokens: int | None = Field(None, ge=1)
    """Keys, those of text included."""
    implementation: Literal["eager", "sdpa", "augmented", "chunked", "flex"]

    def fits(self, device: str, dtype: str, gradient: bool, tokens: int) -> bool:
        """Whether the rule applies to such an attention."""
        return (
            self.device in (None, device)
            and self.dtype in (None, dtype)
            and self.gradient in (None, gradient)
            and (self.max_tokens is None or tokens <= self.max_tokens)
        )


class Policy(BaseModel):
    """A table, and how it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: str
    rules: tuple[Rule, ...]


def load_policy(file: Path) -> Policy:
    """A table from its JSON file; ConfigError says what is wrong with it."""
    try:
        return Policy.model_validate_json(read_file(file))
    except OSError as error:
        raise ConfigError(VARIABLE, f"{file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(VARIABLE, f"{file}: not a table of attention rules: {where}: {first['msg']}") from None


def policy_file() -> Path:
    """The table in use: the machine's own where `WORKBENCH_ATTENTION_POLICY` names one, else the shipped one."""
    return Path(os.environ.get(VARIABLE) or SHIPPED)


@functools.cache
def choose(device: str, dtype: str, gradient: bool, tokens: int) -> str:
    """Name of the implementation to run, logged once for each kind of attention.

    Args:
        dtype: without `torch.`.
        gradient: whether a backward pass may follow.
        tokens: number of keys, those of text included.

    Raises:
        ConfigError: the table is unreadable, or has no rule for this.
    """
    file = policy_file()
    for rule in load_policy(file).rules:
        if rule.fits(device, dtype, gradient, tokens):
            kind = "with" if gradient else "without"
            logger.info("attention on %s in %s, %d tokens, %s gradient: %s", device, dtype, tokens, kind,
                        rule.implementation)  # fmt: skip
            return rule.implementation
    raise ConfigError(VARIABLE, f"{file}: no rule for {device}, {dtype}, gradient {gradient}, {tokens} tokens")


def write_policy(file: Path, policy: Policy) -> None:
    """Write a table; rows without a field leave it out."""
    document = policy.model_dump(mode="json", exclude_none=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")
