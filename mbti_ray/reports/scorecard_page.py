"""The page of one or more scorecards: scores with intervals, baselines, charts, diagnosis.

Takes plain records as scores.json holds them; must not know where they come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mbti_ray.reports import wording
from mbti_ray.reports.charts import confusions, learning_curves, reliability
from mbti_ray.reports.html import Html, bullets, escape, page, paragraph, section, table, warning
from mbti_ray.scores.findings import FindingRecord
from mbti_ray.scores.names import COMPARED_NAMES, DIMENSION_NAMES, METRIC_NAMES, RATE_NAMES
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.typology import DIMENSIONS, Dimension

# A JSON object of scores.json or of the description of the data.
Record = Mapping[str, Any]


def scorecard_page(
    title: str,
    scorecards: Mapping[str, Scorecard],
    *,
    calibration: Record | None = None,
    findings: Sequence[FindingRecord] = (),
    history: Sequence[Record] = (),
    data_info: Record | None = None,
    groups: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The page; charts are those of the first scorecard."""
    main = next(iter(scorecards.values()))
    return page(
        title,
        [
            *map(warning, wording.caveats(main, data_info)),
            *(_scores(name, card) for name, card in scorecards.items()),
            *_groups(groups or {}),
            *_side_by_side(scorecards),
            *(_baselines(name, card, len(scorecards) > 1) for name, card in scorecards.items()),
            *_charts(main),
            *_calibration(calibration),
            *_curves(history),
            *_findings(findings),
            *_data(data_info),
        ],
    )


def _scores(name: str, card: Scorecard) -> Html:
    dimensions, overall = card["dimensions"], card["overall"]
    rows: list[list[str]] = [
        [_dimension_cell(d, dimensions[d.key]), *_metric_cells(dimensions[d.key])]
        for d in DIMENSIONS
    ]
    rows.append(["mean", *_metric_cells(overall)])
    whole = [[RATE_NAMES[key], _cell(overall[key])] for key in ("all_four", "at_least_three")]
    return section(
        f"Scores: {name}",
        paragraph(wording.describe_intervals(card)),
        table([*METRIC_NAMES.values()], rows),
        paragraph(wording.HOW_TO_READ),
        table(["share of rows"], whole),
        *_abstention(card),
    )


def _dimension_cell(dimension: Dimension, record: Record) -> Html:
    return _described(
        dimension.name, f"{wording.percent(record['positive'])} are {dimension.positive}"
    )


def _metric_cells(record: Record) -> list[Html]:
    return [_cell(record.get(metric)) for metric in METRIC_NAMES]


def _cell(interval: Record | None) -> Html:
    """The value, and its interval in small print below."""
    bounds = wording.format_bounds(interval)
    if "-" not in bounds:
        bounds = bounds.replace(" to ", "–")
    below = f"<small>{bounds}</small>" if bounds else ""
    return Html(wording.format_value_of(interval) + below)


def _abstention(card: Scorecard) -> Iterator[Html]:
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
    yield paragraph("Too close to the threshold for a prediction, and the accuracy of the others:")
    yield table(["predicted X", "accuracy of the others"], rows)


def _groups(groups: Mapping[str, Mapping[str, float]]) -> Iterator[Html]:
    """Rows by what they were to the bundle, such as seen in training or new."""
    if groups:
        names = {"acc_mean": "accuracy", "f1_mean": "macro-F1", "acc_total": "all four"}
        rows = [
            [name, f"{scores['rows']:,.0f}", *(wording.number(scores[key]) for key in names)]
            for name, scores in groups.items()
        ]
        yield section(
            "Rows by what the bundle has seen",
            paragraph("Only rows that it was not trained or validated on show how good it is."),
            table(["rows", *names.values()], rows),
        )


def _side_by_side(scorecards: Mapping[str, Scorecard]) -> Iterator[Html]:
    """Accuracies and macro-F1 of all scorecards, where there is more than one."""
    if len(scorecards) < 2:
        return
    cells = [_compared_cells(card) for card in scorecards.values()]
    rows = [[name, *row] for name, *row in zip(COMPARED_NAMES.values(), *cells, strict=True)]
    yield section("Accuracy side by side", table([*scorecards], rows))


def _compared_cells(card: Scorecard) -> list[Html]:
    accuracies = {key: card["dimensions"][key]["accuracy"] for key in DIMENSION_NAMES}
    return [_cell((card["overall"] | accuracies)[key]) for key in COMPARED_NAMES]


def _baselines(name: str, card: Scorecard, is_named: bool) -> Html:
    baselines, missing = card.get("baselines") or {}, card.get("missing") or {}
    rows = [
        [_described(base, rates["description"]), *(_cell(rates.get(key)) for key in COMPARED_NAMES)]
        for base, rates in baselines.items()
    ]
    paired = card.get("paired")
    if paired:
        differences = [_cell(paired.get(key)) for key in COMPARED_NAMES]
        rows.append(
            [_described("difference", f"this model minus {paired['against']}"), *differences]
        )
    model: list[str] = [Html("<strong>this model</strong>"), *_compared_cells(card)]
    left_out = [f"{base} is missing: {reason}" for base, reason in missing.items()]
    return section(
        f"Compared with baselines: {name}" if is_named else "Compared with baselines",
        paragraph(
            "Accuracy and mean macro-F1 on the same rows. What a model is worth is its margin over "
            "the best baseline that reads the same texts."
        ),
        table([*COMPARED_NAMES.values()], [model, *rows]),
        bullets(left_out) if left_out else Html(""),
        paragraph(wording.compare_with_baseline(card)),
    )


def _described(name: str, description: str) -> Html:
    return Html(f"{escape(name)}<small>{escape(description)}</small>")


def _charts(card: Scorecard) -> Iterator[Html]:
    yield section(
        "Reliability",
        paragraph(
            "How often the label is the positive pole, by the probability that the model gave it. "
            "On the dashed line the model is calibrated; a larger dot means more rows."
        ),
        reliability(card["dimensions"]),
    )
    yield section(
        "Confusion matrices",
        paragraph("Rows are labels, columns are predictions; percentages are of the row."),
        confusions(card["dimensions"]),
    )


def _calibration(calibration: Record | None) -> Iterator[Html]:
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
        parts.append(paragraph("Errors of the probabilities, on the rows scored here:"))
        parts.append(table(["Brier", "ECE"], errors))
    yield section("Calibration", *parts)


def _curves(history: Sequence[Record]) -> Iterator[Html]:
    if history:
        yield section("Learning curves", learning_curves(history))


def _findings(findings: Sequence[FindingRecord]) -> Iterator[Html]:
    if findings:
        yield section("Diagnosis", bullets(map(_finding, findings)))


def _finding(finding: FindingRecord) -> Html:
    tries = ", ".join(
        f"<code>{escape(wording.setting(address, value))}</code>"
        for address, value in finding["tries"].items()
    )
    name = escape(wording.finding_name(finding))
    sentence = f"<strong>{name}</strong>: {escape(finding['evidence'])}"
    return Html(f"{sentence}; try {tries}" if tries else sentence)


def _data(data_info: Record | None) -> Iterator[Html]:
    if data_info is not None:
        yield section("Data", table([], wording.data_table(data_info)))
