"""The page of one or more scorecards: scores with intervals, baselines, pictures, diagnosis.

Takes plain figures as `scores.json` holds them; must not know where they come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mbti_ray.reports import wording
from mbti_ray.reports.charts import confusions, learning_curves, reliability
from mbti_ray.reports.html import Html, bullets, escape, page, paragraph, section, table, warning
from mbti_ray.typology import DIMENSIONS, Dimension

Figures = Mapping[str, Any]

_NAMES = {d.key: d.name for d in DIMENSIONS}
_RATES = _NAMES | {"accuracy": "mean", "all_four": "all four", "at_least_three": "at least three"}


def scorecard_page(
    title: str,
    scorecards: Mapping[str, Figures],
    *,
    calibration: Figures | None = None,
    findings: Sequence[Figures] = (),
    history: Sequence[Figures] = (),
    facts: Figures | None = None,
) -> str:
    """The page; the first scorecard is the main one, whose pictures are shown."""
    main = next(iter(scorecards.values()))
    return page(
        title,
        [
            *map(warning, wording.cautions(main, facts)),
            *(_scores(name, card) for name, card in scorecards.items()),
            *_compared(scorecards),
            *(_baselines(name, card, len(scorecards) > 1) for name, card in scorecards.items()),
            *_pictures(main),
            *_calibration(calibration),
            *_curves(history),
            *_findings(findings),
            *_facts(facts),
        ],
    )


def _scores(name: str, card: Figures) -> Html:
    dimensions, overall = card["dimensions"], card["overall"]
    rows: list[list[str]] = [
        [_named(d, dimensions[d.key]), *_metric_cells(dimensions[d.key])] for d in DIMENSIONS
    ]
    rows.append(["mean", *_metric_cells(overall)])
    whole = [[_RATES[key], _cell(overall[key])] for key in ("all_four", "at_least_three")]
    return section(
        f"Scores: {name}",
        paragraph(wording.about_intervals(card)),
        table([*wording.METRICS.values()], rows),
        paragraph(wording.HOW_TO_READ),
        table(["share of rows"], whole),
        *_abstention(card),
    )


def _named(dimension: Dimension, figures: Figures) -> Html:
    return _described(
        dimension.name, f"{wording.percent(figures['positive'])} are {dimension.positive}"
    )


def _metric_cells(figures: Figures) -> list[Html]:
    return [_cell(figures.get(metric)) for metric in wording.METRICS]


def _cell(estimate: Figures | None) -> Html:
    """The value, and its interval in small print below."""
    interval = wording.interval_of(estimate)
    if "-" not in interval:
        interval = interval.replace(" to ", "–")
    below = f"<small>{interval}</small>" if interval else ""
    return Html(wording.value_of(estimate) + below)


def _abstention(card: Figures) -> Iterator[Html]:
    if not card["overall"].get("abstained"):
        return
    rows = [
        [
            d.name,
            wording.percent(card["dimensions"][d.key]["abstained"]),
            wording.number(card["dimensions"][d.key]["accuracy_answered"]),
        ]
        for d in DIMENSIONS
    ]
    yield paragraph("Too near to the threshold to be answered, and the accuracy of the others:")
    yield table(["answered X", "accuracy of the answered"], rows)


def _compared(scorecards: Mapping[str, Figures]) -> Iterator[Html]:
    """Accuracies of all scorecards side by side, where there is more than one."""
    if len(scorecards) < 2:
        return
    cells = [_rates_of(card) for card in scorecards.values()]
    rows = [[name, *row] for name, *row in zip(_RATES.values(), *cells, strict=True)]
    yield section("Accuracy side by side", table([*scorecards], rows))


def _rates_of(card: Figures) -> list[Html]:
    dimensions = [_cell(card["dimensions"][key]["accuracy"]) for key in _NAMES]
    return [*dimensions, *(_cell(card["overall"][key]) for key in _RATES if key not in _NAMES)]


def _baselines(name: str, card: Figures, is_named: bool) -> Html:
    baselines, missing = card.get("baselines") or {}, card.get("missing") or {}
    rows = [
        [_described(base, figures["description"]), *(_cell(figures[key]) for key in _RATES)]
        for base, figures in baselines.items()
    ]
    paired = card.get("paired")
    if paired:
        differences = [_cell(paired.get(key)) for key in _RATES]
        rows.append(
            [_described("difference", f"this model minus {paired['against']}"), *differences]
        )
    model: list[str] = [Html("<strong>this model</strong>"), *_rates_of(card)]
    left_out = [f"{base} is missing: {reason}" for base, reason in missing.items()]
    return section(
        f"Beside baselines: {name}" if is_named else "Beside baselines",
        paragraph(
            "Accuracy on the same rows. A model is worth what it has over the best baseline that "
            "reads the same texts."
        ),
        table([*_RATES.values()], [model, *rows]),
        bullets(left_out) if left_out else Html(""),
        paragraph(wording.paired_sentence(card)),
    )


def _described(name: str, description: str) -> Html:
    return Html(f"{escape(name)}<small>{escape(description)}</small>")


def _pictures(card: Figures) -> Iterator[Html]:
    yield section(
        "Reliability",
        paragraph(
            "How often the positive pole was true where the model gave it that probability. On "
            "the dashed line probabilities mean what they say; a larger dot is more rows."
        ),
        reliability(card["dimensions"]),
    )
    yield section(
        "Answers",
        paragraph(
            "Each row of a square is a label, each column an answer; percentages are of the row."
        ),
        confusions(card["dimensions"]),
    )


def _calibration(calibration: Figures | None) -> Iterator[Html]:
    if calibration is None:
        return
    rows = [
        [d.name, wording.number(temperature), wording.number(threshold)]
        for d, temperature, threshold in zip(
            DIMENSIONS, calibration["temperature"], calibration["thresholds"], strict=True
        )
    ]
    parts = [
        paragraph(
            "Fitted on the validation split: logits are divided by the temperature, and a "
            "probability above the threshold is E, N, T or J. Threshold chosen for: "
            f"{calibration['threshold_objective']}."
        ),
        table(["temperature", "threshold"], rows),
    ]
    before, after = calibration.get("before"), calibration.get("after")
    if before and after:
        errors = [
            [stage, *(wording.number(f.get(k)) for k in ("brier", "ece"))]
            for stage, f in (("before", before), ("after", after))
        ]
        parts.append(paragraph("Errors of the probabilities, on the rows that are scored here:"))
        parts.append(table(["Brier", "ECE"], errors))
    yield section("Calibration", *parts)


def _curves(history: Sequence[Figures]) -> Iterator[Html]:
    if history:
        yield section("Learning curves", learning_curves(history))


def _findings(findings: Sequence[Figures]) -> Iterator[Html]:
    if findings:
        yield section("Diagnosis", bullets(map(_finding, findings)))


def _finding(finding: Figures) -> Html:
    tries = ", ".join(
        f"<code>{escape(wording.setting(address, value))}</code>"
        for address, value in finding["tries"].items()
    )
    said = (
        f"<strong>{escape(wording.finding_name(finding))}</strong>: {escape(finding['evidence'])}"
    )
    return Html(f"{said}; try {tries}" if tries else said)


def _facts(facts: Figures | None) -> Iterator[Html]:
    if facts is not None:
        yield section("Data", table([], wording.data_rows(facts)))
