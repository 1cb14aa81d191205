"""The typed configuration: schema, presets, dotted overrides."""

from mbti_ray.config.load import (
    PRESETS,
    config_of,
    dump_config,
    load_overrides,
    load_run,
    overridden,
    value_at,
)
from mbti_ray.config.schema import RunConfig
from mbti_ray.config.search_space import load_study
from mbti_ray.config.study import StudyConfig

__all__ = [
    "PRESETS",
    "RunConfig",
    "StudyConfig",
    "config_of",
    "dump_config",
    "load_overrides",
    "load_run",
    "load_study",
    "overridden",
    "value_at",
]
