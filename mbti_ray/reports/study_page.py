"""The page of a study: what was searched, the result of each trial, which one is best and why."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from mbti_ray.reports.charts import (
    STATE_NAMES,
    Record,
    bars,
    first_value,
    front,
    shares,
    study_charts,
)
from mbti_ray.reports.html import render_page
from mbti_ray.reports.scorecard_page import About, Tile, score_tiles
from mbti_ray.reports.wording import short
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.scores.study_summary import StudySummary
from mbti_ray.scores.verdict import verdict

_LINKS = ("best/report.html", "best/bundle/card.md", "config.yaml", "trials.parquet", "trials/")


def study_page(
    study: StudySummary,
    best_card: Scorecard | None = None,
    *,
    about: About,
    data_info: Mapping[str, Any] | None = None,
) -> str:
    """The page, as one file without requests; links lead to the trials' folders.

    `best_card` is the scorecard of the best config on the test split.
    """
    tested = [] if best_card is None else [f"{verdict(best_card, data_info)}."]
    continued = [
        (f"epoch {r['epoch']}", n, f"{n} of {r['reached']}")
        for r in study["rungs"]
        for n in [r["reached"] - r["stopped"]]
    ]
    several = len(study["objectives"]) > 1
    pairs = combinations(range(len(study["objectives"])), 2)
    return render_page(
        "study.html",
        title=study["name"],
        kind="study",
        conclusions=[_conclusion(study), *tested],
        caveats=[*_caveats(study)],
        tiles=[*_tiles(study), *(score_tiles(best_card, split="test") if best_card else [])],
        facts=[*about.facts, *_facts(study)],
        links=_LINKS,
        commands=[study["command"], *about.commands()],
        study=study,
        against_default=[*_against_default(study)],
        fronts=[front(study, x, y) for x, y in pairs] if several else [],
        charts=study_charts(study),
        importance=shares("Share", study["importances"]) if study["importances"] else None,
        rungs=bars("Trials that continued", continued),
        objectives=", ".join(o["name"] for o in study["objectives"]),
        state_of=_state,
        values_of=_values,
        failed=[t for t in study["trials"] if t["state"] == "FAIL"],
    )


def _conclusion(study: StudySummary) -> str:
    best, name = _trial(study, study["best"]), study["objectives"][0]["name"]
    if best is None:
        return "No trial was evaluated."
    line = f"Trial {best['number']} is the best of {sum(study['counts'].values())}: {name} "
    line += f"{short(first_value(best))} on validation"
    default = _trial(study, study["default"]["trial"])
    value = first_value(default) if default else None
    return f"{line}, {short(value)} with the default config." if value is not None else f"{line}."


def _tiles(study: StudySummary) -> Iterator[Tile]:
    name = study["objectives"][0]["name"]
    for title, number in (("best", study["best"]), ("default", study["default"]["trial"])):
        trial = _trial(study, number)
        if trial is not None and (value := first_value(trial)) is not None:
            yield Tile(title, short(value), f"{name} of trial {number}, validation")


def _caveats(study: StudySummary) -> Iterator[str]:
    if study["stopped_early"]:
        yield f"The study ended before its trials were done: {study['stopped_early']}."
    failed, total = study["counts"].get("FAIL", 0), sum(study["counts"].values())
    if 2 * failed > total:
        yield f"{failed} of {total} trials failed; the reasons are below the table of trials."


def _facts(study: StudySummary) -> list[tuple[str, str]]:
    counts = [f"{n} {STATE_NAMES.get(s, s.lower())}" for s, n in study["counts"].items()]
    imported = sum(bool(t["imported"]) for t in study["trials"])
    if imported:
        counts.append(f"{imported} imported from an earlier study")
    return [
        ("objective", "; ".join(f"{o['direction']} {o['name']}" for o in study["objectives"])),
        ("trials", f"{', '.join(counts)}; {study['at_once']} at once"),
        ("scheduler", study["scheduler"]),
        ("time", f"{study['elapsed_s']:,.0f} s"),
    ]


def _against_default(study: StudySummary) -> Iterator[tuple[str, ...]]:
    default, best = study["default"]["values"], study["best_values"]
    for address in study["search"]:
        chosen = short(best[address]) if address in best else "-"
        yield address, short(default.get(address)), chosen
    trials = [_trial(study, number) for number in (study["default"]["trial"], study["best"])]
    for index, objective in enumerate(study["objectives"]):
        cells = [short(t["values"][index]) if t and t["values"] else "not tried" for t in trials]
        yield f"{objective['name']} (validation)", *cells


def _state(trial: Record) -> str:
    if trial["imported"]:
        return f"from {trial['imported']}"
    state = str(STATE_NAMES.get(trial["state"], trial["state"]))
    return f"{state} (retry)" if trial.get("retry_of") is not None else state


def _values(trial: Record) -> str:
    if first_value(trial) is None:
        return "-"
    values = ", ".join(short(v) for v in trial["values"])
    seeds = trial["seeds"]
    return f"{values} (single runs {min(seeds):.4g} to {max(seeds):.4g})" if seeds else values


def _trial(study: StudySummary, number: int | None) -> Record | None:
    return next((t for t in study["trials"] if t["number"] == number), None)
