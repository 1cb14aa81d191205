"""Draw README's picture of results from the raw JSON of benchmarks/splits.py.

    python docs/make_results.py

Mean accuracy of the four dimensions with its 95 % interval, on tweets of people that were read in
training and of people that were not, compared with the baselines; a light and a dark version.
"""

import json
from pathlib import Path
from typing import Any

import vl_convert

ROOT = Path(__file__).parents[1]
SPLITS = {
    "tweets of people it has read": "post",
    "tweets of three people it has never read": "author",
}
BASELINES = {"TF-IDF + logistic regression": "tfidf", "majority class": "majority"}
COLORS = {
    "light": {"background": "#ffffff", "text": "#1f2328", "grid": "#d0d7de"},
    "dark": {"background": "#0d1117", "text": "#e6edf3", "grid": "#30363d"},
}


def main() -> None:
    rows = [row for title, split in SPLITS.items() for row in read_rows(title, split)]
    for theme, colors in COLORS.items():
        path = ROOT / "docs" / "pictures" / f"results-{theme}.svg"
        path.write_text(vl_convert.vegalite_to_svg(build_chart(rows, colors)), "utf-8")
        print(path.relative_to(ROOT))


def read_rows(title: str, split: str) -> list[dict[str, Any]]:
    path = ROOT / "benchmarks" / "results" / f"tweets_split_by_{split}.json"
    scorecard = json.loads(path.read_text("utf-8"))["scores"]["scorecard"]
    sides = {"mbti_ray": scorecard["overall"]}
    sides |= {name: scorecard["baselines"][key] for name, key in BASELINES.items()}
    return [{"title": title, "side": name, **side["accuracy"]} for name, side in sides.items()]


def build_chart(rows: list[dict[str, Any]], colors: dict[str, str]) -> dict[str, Any]:
    side = {"field": "side", "type": "nominal", "sort": None, "title": None}
    accuracy = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "bar", "height": 14},
            "encoding": {
                "x": accuracy | {"field": "value", "title": "mean accuracy of four letters"},
                "color": side
                | {"legend": None, "scale": {"range": ["#0969da", "#8c959f", "#8c959f"]}},
            },
        },
        {
            "mark": {"type": "rule", "color": colors["text"], "strokeWidth": 2},
            "encoding": {"x": accuracy | {"field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "text", "align": "right", "color": colors["text"], "dx": 30},
            "encoding": {
                "x": {"value": 340},
                "text": {"field": "value", "format": ".3f"},
            },
        },
    ]
    return {
        "data": {"values": rows},
        "background": colors["background"],
        "facet": {
            "row": {"field": "title", "sort": None, "title": None, "header": _header(colors)}
        },
        "spec": {"width": 340, "height": 78, "encoding": {"y": side}, "layer": layers},
        "config": {
            "view": {"stroke": None},
            "axis": {
                "labelColor": colors["text"],
                "titleColor": colors["text"],
                "gridColor": colors["grid"],
                "labelLimit": 220,
                "domain": False,
                "ticks": False,
            },
        },
    }


def _header(colors: dict[str, str]) -> dict[str, Any]:
    return {"labelOrient": "top", "labelAnchor": "start", "labelColor": colors["text"]}


if __name__ == "__main__":
    main()
