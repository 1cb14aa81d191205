"""The settings of the loss, `loss.*`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mbti_ray.config.section import ConfigSection, Finite, NotNegative, Positive

PosWeights = tuple[Positive, Positive, Positive, Positive]


class PolePowers(ConfigSection):
    """The exponent of each positive pole's balanced weight."""

    E: Finite | None = None
    N: Finite | None = None
    T: Finite | None = None
    J: Finite | None = None


class PoleWeights(ConfigSection):
    """The weight of each positive pole."""

    E: Positive | None = None
    N: Positive | None = None
    T: Positive | None = None
    J: Positive | None = None


class LossConfig(ConfigSection):
    """Binary cross-entropy over four heads, plain or focal, weighted or not."""

    kind: Literal["bce", "focal"] = "bce"
    """bce, or focal (Lin et al. 2017)"""
    pos_weight: Literal["none", "balanced"] | Annotated[float, Field(ge=0, le=1)] | PosWeights = (
        "none"
    )
    """none; balanced (negatives/positives of the training split); a number p from 0 to 1 (balanced
    to the power p); or four numbers in the order E, N, T, J"""
    power: PolePowers = PolePowers()
    """the pole's balanced weight to this power; null: as pos_weight says"""
    weight: PoleWeights = PoleWeights()
    """the pole's weight itself; null: as power or pos_weight says"""
    gamma: NotNegative = 2.0
    """focal loss only"""
    per: Literal["window", "person"] | None = None
    """what a loss is computed for: each window, or a person's pooled logits; null: window, and
    person for model.reader=posts"""
    targets: Literal["types", "shares"] = "types"
    """shares: soft labels, where the data have them (see data.shares_of)"""

    @model_validator(mode="after")
    def _one_weight_a_pole(self) -> "LossConfig":
        for pole, weight in self.weight:
            if weight is not None and getattr(self.power, pole) is not None:
                raise ValueError(f"loss.power.{pole} and loss.weight.{pole} are both set")
        return self
