"""The page of a study: what was searched, the result of each trial, which one is best and why.

Takes a plain `StudySummary`; must not know Optuna, Ray, or where trials run.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any
from urllib.parse import quote

from mbti_ray.reports import study_charts as charts
from mbti_ray.reports import wording
from mbti_ray.reports.charts import bars
from mbti_ray.reports.html import Html, bullets, escape, page, paragraph, section, table, warning
from mbti_ray.reports.study_charts import STATE_NAMES, Trial, first_value
from mbti_ray.scores.study_summary import StudySummary


def study_page(study: StudySummary) -> str:
    """The page, as one file without script or network; links lead to the trials' folders."""
    return page(
        f"Study {study['name']}",
        [
            *map(warning, _caveats(study)),
            _summary(study),
            _against_default(study),
            *_front(study),
            section("History", charts.history(study), charts.curves(study)),
            section("Parallel coordinates", charts.parallel(study)),
            _importances(study),
            *_rungs(study),
            section("Timeline", charts.timeline(study)),
            _trials(study),
            *_findings(study),
            _repeat(study),
        ],
    )


def _caveats(study: StudySummary) -> Iterator[str]:
    if study["stopped_early"]:
        yield f"The study ended before its trials were done: {study['stopped_early']}."
    failed, total = study["counts"].get("FAIL", 0), sum(study["counts"].values())
    if 2 * failed > total:
        yield f"{failed} of {total} trials failed; the reasons are below the table of trials."


def _summary(study: StudySummary) -> Html:
    counts = [f"{n} {STATE_NAMES.get(s, s.lower())}" for s, n in study["counts"].items()]
    imported = sum(bool(t["imported"]) for t in study["trials"])
    if imported:
        counts.append(f"{imported} imported from an earlier study")
    rows = [["objective", "; ".join(f"{o['direction']} {o['name']}" for o in study["objectives"])]]
    best = _trial(study, study["best"])
    if best is not None:
        rows.append(["best", f"trial {best['number']}: {_values(study, best)}"])
    rows += [
        ["trials", ", ".join(counts)],
        ["side by side", str(study["at_once"])],
        ["scheduler", study["scheduler"]],
        ["time", f"{study['elapsed_s']:,.0f} s"],
    ]
    return section("Result", table([], rows))


def _against_default(study: StudySummary) -> Html:
    default, best = study["default"]["values"], study["best_values"]
    rows = [
        [address, _short(default.get(address)), _short(best[address]) if address in best else "-"]
        for address in study["search"]
    ]
    tried = _trial(study, study["default"]["trial"])
    chosen = _trial(study, study["best"])
    for index, objective in enumerate(study["objectives"]):
        cells = [
            _short(t["values"][index]) if t is not None and t["values"] else "not tried"
            for t in (tried, chosen)
        ]
        rows.append([f"{objective['name']} (validation)", *cells])
    return section(
        "The best config compared with the default",
        paragraph(
            "The best of many is chosen by its validation score, which is therefore optimistic; "
            "its test scores are on the page best/report.html."
        ),
        table(["default", "best"], rows),
    )


def _front(study: StudySummary) -> Iterator[Html]:
    if len(study["objectives"]) < 2:
        return
    pairs = combinations(range(len(study["objectives"])), 2)
    yield section(
        "Pareto front",
        paragraph(
            "Trials that are not dominated by another in all objectives: "
            f"{', '.join(map(str, study['front'])) or 'none'}. The bundle is that of the best in "
            f"{study['objectives'][0]['name']}."
        ),
        *(charts.front(study, x, y) for x, y in pairs),
    )


def _importances(study: StudySummary) -> Html:
    shares = study["importances"]
    if not shares:
        return section("Importance", paragraph(f"Not available: {study['importances_missing']}."))
    lengths = [(name, share, wording.percent(share)) for name, share in shares.items()]
    return section(
        "Importance",
        paragraph(
            "How much of the difference between better and worse trials each address explains "
            "(PED-ANOVA), over complete trials."
        ),
        bars("Share", lengths),
    )


def _rungs(study: StudySummary) -> Iterator[Html]:
    if not study["rungs"]:
        return
    rows = [
        [
            f"epoch {r['epoch']}",
            str(r["reached"]),
            str(r["reached"] - r["stopped"]),
            _short(r["best"]),
            _short(r["cut"]),
        ]
        for r in study["rungs"]
    ]
    promoted = [
        (
            f"epoch {r['epoch']}",
            float(r["reached"] - r["stopped"]),
            f"{r['reached'] - r['stopped']} of {r['reached']}",
        )
        for r in study["rungs"]
    ]
    yield section(
        "Rungs",
        paragraph("After these epochs the scheduler stops the worst trials."),
        bars("Trials that continued", promoted),
        table(["reached", "continued", "best", "worst that continued"], rows),
    )


def _trials(study: StudySummary) -> Html:
    addresses = list(study["search"])
    rows = [
        [
            _linked(trial),
            _state(trial),
            _values(study, trial),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(_short(trial["params"][a]) if a in trial["params"] else "-" for a in addresses),
        ]
        for trial in study["trials"]
    ]
    heading = ", ".join(o["name"] for o in study["objectives"])
    failed = [
        f"trial {t['number']}: {t['reason']}" for t in study["trials"] if t["state"] == "FAIL"
    ]
    return section(
        "Trials",
        table(["state", heading, "epochs", "s", *addresses], rows),
        *([paragraph("Why trials failed:"), bullets(failed)] if failed else []),
    )


def _linked(trial: Trial) -> Html:
    if not trial["folder"] or trial["imported"]:
        return escape(str(trial["number"]))
    return Html(f'<a href="{escape(quote(trial["folder"]))}/">{trial["number"]}</a>')


def _state(trial: Trial) -> str:
    if trial["imported"]:
        return f"from {trial['imported']}"
    state = str(STATE_NAMES.get(trial["state"], trial["state"]))
    return f"{state} (retry)" if trial.get("retry_of") is not None else state


def _values(study: StudySummary, trial: Trial) -> str:
    if first_value(trial) is None:
        return "-"
    values = ", ".join(_short(v) for v in trial["values"])
    seeds = trial["seeds"]
    return f"{values} (seeds {min(seeds):.4g} to {max(seeds):.4g})" if seeds else values


def _findings(study: StudySummary) -> Iterator[Html]:
    if study["findings"]:
        yield section("Diagnosis of the search", bullets(f["line"] for f in study["findings"]))


def _repeat(study: StudySummary) -> Html:
    return section(
        "The bundle, and how to repeat it",
        paragraph(study["bundle"]),
        Html(f"<p><code>{escape(study['command'])}</code></p>"),
    )


def _trial(study: StudySummary, number: int | None) -> Trial | None:
    found: Sequence[Trial] = [t for t in study["trials"] if t["number"] == number]
    return found[0] if found else None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
