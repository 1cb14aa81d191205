"""The page of a study: every trial once, nothing unescaped, the same for the same study."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.config import load_run
from mbti_ray.reports import study_page as reports
from mbti_ray.reports.scorecard_page import About

pytestmark = pytest.mark.unit

START = datetime(2026, 11, 24, 12, 0, 0)


def trial(number: int, state: str = "COMPLETE", **changes: Any) -> dict[str, Any]:
    score = 0.5 + number / 100
    started = START + timedelta(seconds=10 * number)
    return {
        "number": number,
        "state": state,
        "values": None if state == "FAIL" else [score],
        "params": {"optim.lr": 10 ** -(3 + number % 3), "model.pooling": "cls"},
        "evaluations": [] if state == "FAIL" else [[1, score - 0.1], [2, score]],
        "epochs": 2,
        "seconds": 9.5,
        "started": started.isoformat(),
        "ended": (started + timedelta(seconds=9)).isoformat(),
        "worker": f"host:{number % 2}",
        "folder": f"trials/trial-{number:04d}",
        "reason": "diverged" if state == "FAIL" else None,
        "imported": None,
        "seeds": None,
        **changes,
    }


def study(trials: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    states = [t["state"] for t in trials]
    evaluated = [t for t in trials if t["values"] and t["state"] != "FAIL" and not t["imported"]]
    best = max(evaluated, key=lambda t: t["values"][0], default=None)
    return {
        "name": "s",
        "objectives": [{"name": "acc_mean", "direction": "maximize"}],
        "scheduler": "asha",
        "search": {
            "optim.lr": {"low": 1e-6, "high": 1e-2, "log": True, "when": {}},
            "model.pooling": {"choices": ["cls", "mean"], "when": {}},
        },
        "trials": trials,
        "best": best["number"] if best else None,
        "front": [],
        "default": {"values": {"optim.lr": 2e-5, "model.pooling": "cls"}, "trial": 0},
        "best_values": best["params"] if best else {},
        "importances": {"optim.lr": 0.9, "model.pooling": 0.1},
        "importances_missing": None,
        "rungs": [{"epoch": 1, "reached": 8, "stopped": 5, "best": 0.7, "cut": 0.6}],
        "counts": {s: states.count(s) for s in sorted(set(states))},
        "elapsed_s": 61.0,
        "at_once": 2,
        "stopped_early": None,
        "bundle": "The bundle is made from the checkpoint of trial 1, not retrained.",
        "command": "python -m mbti_ray.train best/config.yaml name=again",
        "findings": [],
        **changes,
    }


def study_page(summary: dict[str, Any], *more: Any) -> str:
    """The page without the library of its charts."""
    about = About(load_run("quick", ()), "runs/s", "2026-11-25")
    html = reports.study_page(summary, *more, about=about)  # type: ignore[arg-type]
    assert len(html.encode()) < 5_000_000
    return html[: html.rindex("<script>")]


def rows_of(html: str, heading: str) -> list[str]:
    part = html.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
    return re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>', part)


def test_the_page_compares_the_best_with_the_default_and_how_to_repeat_it() -> None:
    html = study_page(study([trial(n) for n in range(4)]))
    assert "Trial 3 is the best of 4: acc_mean 0.53 on validation, 0.5 with the default" in html
    against = html.split("compared with the default</h2>")[1].split("</section>")[0]
    assert "<td>2e-05</td><td>0.001</td>" in against
    assert "<td>0.5</td><td>0.53</td>" in against
    assert "<code>python -m mbti_ray.train best/config.yaml name=again</code>" in html
    assert "3 of 8" in html
    assert 'href="trials/trial-0002/"' in html


def test_failures_have_their_reason_and_imported_trials_are_marked() -> None:
    trials = [
        trial(0),
        trial(1, "FAIL"),
        trial(2, "FAIL", reason="no memory"),
        trial(3, imported="old, trial 7", folder=None),
    ]
    html = study_page(study(trials, counts={"COMPLETE": 1, "FAIL": 2}))
    assert "trial 2: no memory" in html
    assert "2 of 3 trials failed" in html
    assert "from old, trial 7" in html
    assert "1 imported from an earlier study" in html


def test_several_objectives_have_a_front_and_an_early_end_has_its_reason() -> None:
    objectives = [
        {"name": "acc_mean", "direction": "maximize"},
        {"name": "brier", "direction": "minimize"},
    ]
    trials = [trial(n, values=[0.5 + n / 10, 0.1 + n / 50]) for n in range(3)]
    html = study_page(
        study(trials, objectives=objectives, front=[0, 2], stopped_early="stopped by SIGINT")
    )
    assert "acc_mean against brier" in html
    assert "in all objectives:\n0, 2." in html
    assert "ended before its trials were done: stopped by SIGINT." in html


def test_everything_in_a_study_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    odd = trial(
        0, "FAIL", reason=evil, worker=evil, params={"optim.lr": 1e-3, "model.pooling": evil}
    )
    html = study_page(study([odd, trial(1, folder=f"trials/{evil}")], name=evil, command=evil))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_same_study_gives_the_same_page() -> None:
    assert study_page(study([trial(0), trial(1)])) == study_page(study([trial(0), trial(1)]))


def test_a_study_of_five_hundred_trials_is_a_page_of_less_than_two_megabytes() -> None:
    html = study_page(study([trial(n, "PRUNED" if n % 3 else "COMPLETE") for n in range(500)]))
    assert len(html.encode()) < 2_000_000
    assert len(rows_of(html, "Trials")) == 500


STATES = st.sampled_from(["COMPLETE", "PRUNED", "FAIL", "RUNNING"])
SCORES = st.one_of(st.just(0.5), st.floats(0, 1))


@settings(max_examples=15, deadline=None)
@given(found=st.lists(st.tuples(STATES, SCORES, st.booleans()), max_size=6))
def test_any_study_has_a_page_with_each_trial_once(found: list[tuple[str, float, bool]]) -> None:
    trials = []
    for number, (state, score, is_whole) in enumerate(found):
        one = trial(number, state, values=None if state in ("FAIL", "RUNNING") else [score])
        if not is_whole:
            one |= {"ended": None, "worker": None, "folder": None, "evaluations": []}
            del one["params"]["model.pooling"]
        trials.append(one)
    html = study_page(study(trials, importances={}, importances_missing="too few", rungs=[]))
    numbers = [re.sub("<.*?>", "", row) for row in rows_of(html, "Trials")]
    assert numbers == [str(n) for n in range(len(trials))]
    for drawn in re.findall('application/json">(.*?)</script>', html):
        assert json.loads(drawn)["caption"]
