"""What the sections of params are made of."""

from __future__ import annotations

from os.path import expanduser
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Scale = Annotated[float, Field(gt=0)]
NameOrFile = Annotated[str, AfterValidator(expanduser)]  # `~` is the home folder, as in paths


class Section(BaseModel):
    """A part of a file of numbers. A mistake in it is found when it is read, before anything is computed.

    The string below a field is its description: in the schema, in the documentation and for `sohes params --explain`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
