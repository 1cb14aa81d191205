"""Which trials go on: successive halving, a population that copies its best, or all of them."""

import random
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from mbti_ray.config import StudyConfig
from mbti_ray.study.figures import longest_of
from mbti_ray.study.sampling import perturbed


def build_scheduler(config: StudyConfig) -> TrialScheduler:
    """The scheduler that `study.scheduler` names, over epochs."""
    if config.study.scheduler == "none":
        return FIFOScheduler()
    if config.study.scheduler == "pbt":
        return _population(config)
    # The report after the last of several seeds must not find the trial stopped.
    longest = longest_of(config) + (config.study.seeds > 1)
    return ASHAScheduler(
        time_attr="epoch",
        max_t=max(longest, config.study.grace_epochs),
        grace_period=min(config.study.grace_epochs, longest),
        reduction_factor=config.study.reduction,
    )


def _population(config: StudyConfig) -> TrialScheduler:
    """Jaderberg et al. 2017, "Population Based Training of Neural Networks"."""
    chance = random.Random(config.seed)

    def explore(values: dict[str, Any]) -> dict[str, Any]:
        return values | perturbed(config.search, values, chance)

    return _Population(
        time_attr="epoch",
        perturbation_interval=config.study.grace_epochs,
        custom_explore_fn=explore,
        log_config=False,
    )


class _Population(PopulationBasedTraining):  # type: ignore[misc]
    """Takes the trials of a searcher: ours learns of changed values from what trials report."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # All that is asked of it there is whether it has a searcher, which is then refused.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
