"""Reports as a reader has them: light, dark, on a phone; charts that answer, links that lead on."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import optuna
import pytest
import yaml

from mbti_ray.config import StudyConfig, load_run, load_study
from mbti_ray.data.audit import audit
from mbti_ray.data.users import load_users
from mbti_ray.reports.audit_page import audit_conclusions, audit_page, audit_tables
from mbti_ray.reports.scorecard_page import About
from mbti_ray.reports.study_page import study_page
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study
from mbti_ray.study.summary import summarize_study
from report_records import scorecard

pytestmark = pytest.mark.browser

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra: test")

# What axe looks for; dark differs by its colors alone.
WRONG = {"resultTypes": ["violations"]}
CHECKS = {"light": WRONG, "dark": WRONG | {"runOnly": ["color-contrast"]}}
SIZES = {"desktop": {"width": 1400, "height": 900}, "phone": {"width": 390, "height": 844}}
# The sizes of all texts in CSS pixels, also of those in charts that are scaled or turned.
TEXT_SIZES = """() => [...document.querySelectorAll("body *")]
  .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .filter((e) => e.checkVisibility())
  .map((e) => { const m = e.ownerSVGElement ? e.getScreenCTM() : { a: 1, b: 0 };
    return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(m.a, m.b); })"""


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
    page = study_page(
        summarize_study(study, config) | more,  # type: ignore[arg-type]
        scorecard(40),  # type: ignore[arg-type]
        about=About(config, "runs/s", "2026-11-25"),
    )
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


@pytest.fixture(scope="module")
def reports(report: Path, bundles: dict[str, Path]) -> dict[str, Path]:
    """A page of each kind: of the study, of a run that was trained here, of an audit."""
    config = load_run("quick", ())
    found = audit(config, load_users(config.data))
    text = audit_page(found, audit_tables(found, config), audit_conclusions(found, config))
    (report.parent / "audit.html").write_text(text, "utf-8")
    run = bundles["scored"].parent / "report.html"
    return {"study": report, "run": run, "audit": report.parent / "audit.html"}


@pytest.fixture
def open_report(open_page: Any) -> Callable[..., Any]:
    """Opens a report and waits until its charts are drawn."""

    def open_it(path: Path, **settings: Any) -> Any:
        page = open_page(path.as_uri(), **settings)
        charts = page.locator(".chart").count()
        page.wait_for_function(
            "n => document.querySelectorAll('.chart svg').length === n", arg=charts
        )
        return page

    return open_it


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["study", "run", "audit"])
def test_a_report_fits_the_screen_is_readable_and_accessible_light_and_dark(
    reports: dict[str, Path], open_report: Any, screenshots: Path, kind: str, size: str
) -> None:
    page = open_report(reports[kind], viewport=SIZES[size])
    assert page.title().endswith(f": {kind} report")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    assert min(page.evaluate(TEXT_SIZES)) >= 9
    assert reports[kind].stat().st_size < 5_000_000
    for chart in page.locator(".chart").all():
        assert chart.get_attribute("aria-label")
        described = chart.locator(".role-mark [aria-label]").first.get_attribute("aria-label")
        assert re.search(r"\d", described)
        box = chart.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 20
    for scheme, options in CHECKS.items():
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=screenshots / f"{kind}-{size}-{scheme}.png", full_page=True)
        found = axe.Axe().run(page, options=options)
        assert found.violations_count == 0, found.generate_report()


def test_charts_stand_side_by_side_where_there_is_room(report: Path, open_report: Any) -> None:
    def columns(size: str) -> int:
        page = open_report(report, viewport=SIZES[size])
        tops = [c.bounding_box()["y"] for c in page.locator("#trials-in-charts figure").all()]
        assert len(tops) == 4
        return len(tops) // len(set(tops))

    assert columns("desktop") == 2
    assert columns("phone") == 1


def test_a_chart_shows_values_where_it_is_pointed_at(report: Path, open_report: Any) -> None:
    page = open_report(report, viewport=SIZES["desktop"])
    marked = ".mark-symbol.role-mark path, .mark-rect.role-mark path"
    shown_by = ("brier", "best so far", "epoch", "address", "took")
    for chart, shown in zip(page.locator(".chart").all(), shown_by, strict=False):
        marks = chart.locator(marked)
        marks.last.hover(force=True)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert "trial" in tooltip.inner_text()
        assert shown in tooltip.inner_text()


def test_a_clicked_trial_is_highlighted_in_every_chart_and_in_the_table(
    report: Path, open_report: Any
) -> None:
    page = open_report(report, viewport=SIZES["desktop"])
    marked = "[stroke='var(--mark)'], [fill='var(--mark)']"
    assert page.locator(marked).count() == 0
    page.locator("tr[data-trial='3'] td").first.click()
    charts = page.locator("#pareto-front .chart, #trials-in-charts .chart").all()
    assert len(charts) == 5
    for chart in charts:
        chart.locator(marked).first.wait_for(state="attached")
    # A click on a mark does the same; a second one ends it.
    page.locator("tr[data-trial='3'] td").first.click()
    page.wait_for_function("s => !document.querySelector(s)", arg=marked)
    timeline = page.locator("#trials-in-charts .chart").last
    timeline.locator("path[aria-label*='trial: 6;']").click(force=True)
    for chart in charts:
        chart.locator(marked).first.wait_for(state="attached")
    assert page.locator("tr.chosen").get_attribute("data-trial") == "6"


def test_trials_are_sorted_by_the_column_that_is_clicked(report: Path, open_report: Any) -> None:
    page = open_report(report)
    head = page.get_by_role("columnheader", name="optim.lr")
    cells = page.locator("#trials tbody td:last-child")
    for order, backwards in (("ascending", False), ("descending", True)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        rates = [float(rate) for rate in cells.all_inner_texts()]
        assert rates == sorted(rates, reverse=backwards)


def test_commands_are_copied(report: Path, open_report: Any) -> None:
    page = open_report(report, permissions=["clipboard-read", "clipboard-write"])
    # As on a page that comes from another machine by plain HTTP.
    page.evaluate("kept = navigator.clipboard")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: null})")
    page.get_by_role("button", name="copy").nth(1).click()
    page.get_by_role("button", name="copied").wait_for()
    assert page.evaluate("kept.readText()") == "mbti-ray serve runs/s"


def test_each_trial_is_linked_to_its_folder(report: Path, open_report: Any) -> None:
    page = open_report(report)
    links = [link.evaluate("a => a.href") for link in page.locator("tbody a").all()]
    assert len(links) == 14
    assert all(Path(unquote(urlparse(link).path)).is_dir() for link in links)
