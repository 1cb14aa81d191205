"""The section `optim`: learning rates, warm-up, weight decay, clipping."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from mbti_ray.config.section import ConfigSection, NotNegative, Positive

_WARMUP_CAP = 0.1


class OptimConfig(ConfigSection):
    """AdamW with linear warm-up and decay."""

    lr: Positive = 2e-5
    """peak learning rate of the encoder"""
    head_lr: Positive | None = None
    """of the heads; null: the same as lr, and at least 1e-3 where model.trainable is heads or
    gradual"""
    weight_decay: NotNegative = 0.01
    """not applied to biases and norms"""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """learning rate of an encoder layer, relative to the layer above it"""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 500
    """optimizer steps; or a share of the run's steps, such as 0.06"""
    warmup_cap: Annotated[float, Field(gt=0, le=1)] | None = _WARMUP_CAP
    """warm-up is at most this share of the run's steps; null, which setting warmup_steps implies:
    no limit"""
    clip_norm: Positive | None = 1.0
    """gradient norm limit; null: none"""

    @model_validator(mode="before")
    @classmethod
    def _given_warmup_is_not_capped(cls, values: Any) -> Any:
        if isinstance(values, dict) and "warmup_steps" in values:
            return {"warmup_cap": None} | values
        return values

    def warmup_of(self, total_steps: int) -> int:
        """Warm-up steps of a run of so many optimizer steps."""
        given = self.warmup_steps
        steps = given if isinstance(given, int) else round(given * total_steps)
        return steps if self.warmup_cap is None else min(steps, int(self.warmup_cap * total_steps))
