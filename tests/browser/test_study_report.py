"""The page of a study as a reader has it: light, dark, on a phone, with links that lead on."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import optuna
import pytest
import yaml

from mbti_ray.config import StudyConfig, load_study
from mbti_ray.reports.study_page import study_page
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study
from mbti_ray.study.summary import summarize_study

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real Optuna study with two objectives and a conditional address."""
    folder = tmp_path_factory.mktemp("study")
    tree = {
        "preset": "quick",
        "fit": {"epochs": 9},
        "study": {"objective": ["acc_mean", "brier"], "startup_trials": 6},
        "search": {
            "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "fit.batch_size": {"int_low": 8, "int_high": 64},
            "loss.kind": {"choices": ["bce", "focal"]},
            "loss.gamma": {"low": 0.5, "high": 4.0, "when": {"loss.kind": "focal"}},
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    config = load_study(str(folder / "study.yaml"))
    study = open_study(folder, config, name="s")
    for number in range(14):
        _end(ask_trial(study, config.search), number, folder)
    more = {"at_once": 2, "stopped_early": None, "bundle": "Copied.", "command": "python -m x"}
    page = study_page(summarize_study(study, config) | more)
    (folder / "report.html").write_text(page, "utf-8")
    assert json.dumps(summarize_study(study, config))
    assert isinstance(config, StudyConfig)
    return folder / "report.html"


def _end(trial: optuna.Trial | None, number: int, folder: Path) -> None:
    assert trial is not None
    rate = trial.params["optim.lr"]
    score, brier = 0.9 - abs(rate - 3e-3) * 40, 0.1 + rate * 10
    epochs = 9 if number % 3 == 0 else 1
    attributes: dict[str, Any] = {
        "values": [score, brier],
        "evaluations": [[e, score - 0.3 / e, brier + 0.1 / e] for e in range(1, epochs + 1)],
        "epochs": epochs,
        "seconds": 2.0 * epochs,
        "worker": f"host:{100 + number % 2}",
        "folder": f"trials/trial-{number:04d}",
    }
    (folder / attributes["folder"]).mkdir(parents=True)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    if number == 5:
        trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    elif number % 3 == 0:
        trial.study.tell(trial, [score, brier])
    else:
        trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_study_shows_every_picture(
    report: Path, open_page: Any, screenshots: Path, scheme: str
) -> None:
    page = open_page(report.as_uri(), color_scheme=scheme, viewport={"width": 1000, "height": 900})
    assert page.title() == "Study s"
    pictures = page.locator("svg").all()
    assert len(pictures) == 7
    for picture in pictures:
        assert picture.get_attribute("aria-label")
        box = picture.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 20
    page.screenshot(path=screenshots / f"study-{scheme}.png", full_page=True)


def test_the_page_of_a_study_fits_a_phone(report: Path, open_page: Any, screenshots: Path) -> None:
    page = open_page(report.as_uri(), viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.screenshot(path=screenshots / "study-phone.png", full_page=True)


def test_each_trial_is_linked_to_its_folder(report: Path, open_page: Any) -> None:
    page = open_page(report.as_uri())
    links = [link.evaluate("a => a.href") for link in page.locator("td a, th a").all()]
    assert len(links) == 14
    assert all(Path(unquote(urlparse(link).path)).is_dir() for link in links)
