"""The typed configuration: schema, presets, dotted overrides."""

from mbti_ray.config.load import (
    PRESETS,
    apply_overrides,
    config_from_dict,
    dump_config,
    get_value,
    load_run,
    override,
)
from mbti_ray.config.schema import RunConfig
from mbti_ray.config.search_space import load_run_or_study, load_study
from mbti_ray.config.study import StudyConfig

__all__ = [
    "PRESETS",
    "RunConfig",
    "StudyConfig",
    "apply_overrides",
    "config_from_dict",
    "dump_config",
    "get_value",
    "load_run",
    "load_run_or_study",
    "load_study",
    "override",
]
