"""A small study and the end of one of its trials, for tests of studies."""

from pathlib import Path

import optuna
import yaml
from optuna.trial import TrialState

from mbti_ray.config import StudyConfig, load_study


def study_of(folder: Path, *changes: str, name: str = "study", **search: object) -> StudyConfig:
    tree = {"preset": "quick", "study": {"trials": 8}}
    tree["search"] = search or {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree), "utf-8")
    return load_study(str(file), changes)


def end(trial: optuna.Trial, value: float, state: TrialState = TrialState.COMPLETE) -> None:
    """Let a trial end as the searcher does."""
    attributes = {"values": [value], "evaluations": [[1, value]], "epochs": 1, "seconds": 0.5}
    for name, attribute in attributes.items():
        trial.set_user_attr(name, attribute)
    trial.report(value, 1)
    trial.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)
