"""Schedulers of trials: ASHA (asynchronous successive halving), population-based training, none."""

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
from mbti_ray.study.sampling import perturb
from mbti_ray.study.summary import max_epochs


def build_scheduler(config: StudyConfig) -> TrialScheduler:
    """The scheduler that `study.scheduler` names, over epochs."""
    if config.study.scheduler == "none":
        return FIFOScheduler()
    if config.study.scheduler == "pbt":
        # Jaderberg et al. 2017, "Population Based Training of Neural Networks"
        rng = random.Random(config.seed)
        return _Population(
            time_attr="epoch",
            perturbation_interval=config.study.grace_epochs,
            custom_explore_fn=lambda values: values | perturb(config.search, values, rng),
            log_config=False,
        )
    # Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning". The report after the
    # last of several seeds must not find the trial stopped.
    longest = max_epochs(config) + (config.study.seeds > 1)
    return ASHAScheduler(
        time_attr="epoch",
        max_t=max(longest, config.study.grace_epochs),
        grace_period=min(config.study.grace_epochs, longest),
        reduction_factor=config.study.reduction,
    )


class _Population(PopulationBasedTraining):  # type: ignore[misc]
    """Accepts a searcher, which Ray's own class refuses.

    Our searcher learns of perturbed values from what the trials report.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # All that Ray does with the controller here is to refuse it if it has a searcher.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
