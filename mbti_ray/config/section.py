"""What all sections of a config are built from: the base class and the types of numbers."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
# YAML reads `name: 2026` as a number.
AS_TEXT = BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)
Text = Annotated[str, AS_TEXT]


class ConfigSection(BaseModel):
    """Base of all sections: immutable, without undeclared keys; docstrings describe the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
