"""What all sections of a configuration share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def is_test_split(name: str) -> bool:
    """Whether a split is for testing, so that nothing may be chosen by it; of a member of joint data sets as well."""
    return name.rpartition("/")[2].lower().startswith("test")
