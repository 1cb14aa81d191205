"""`compare` and the gate of a roll-out: two bundles on people who are new to both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbti_ray.compare import main as compare_main
from mbti_ray.errors import BundleError, DataError
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.inference.comparison import require_no_worse

pytestmark = pytest.mark.integration


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    def run(*words: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = compare_main([*map(str, words), "--json"])
        captured = capsys.readouterr()
        text = " ".join((captured.out + captured.err).split())
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else {}, text

    return run


def test_a_worse_bundle_loses_letters_and_the_rows_say_which(
    compare: Callable[..., Any], bundle: Path, worse_bundle: Path, new_people: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    code, found, text = compare(bundle, worse_bundle, f"data.source={new_people}", "--output", rows)
    assert code == 0
    assert found["persons"] == 60
    assert "B is worse than A in accuracy" in text
    assert "60 users" in text
    written = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    assert {row["type_second"] for row in written} == {"ENTJ"}
    for k, flips in enumerate(found["flips"].values()):
        changed = [r for r in written if r["type_first"][k] != r["type_second"][k]]
        assert flips["corrected"] == sum(r["type_second"][k] == r["true"][k] for r in changed)
        assert flips["spoiled"] == len(changed) - flips["corrected"]
    assert found["differences"]["brier"]["value"] == 0


def test_the_rows_that_either_has_seen_are_left_out(
    compare: Callable[..., Any], bundle: Path, other_bundle: Path, small_file: Path
) -> None:
    _, own, _ = compare(bundle, bundle, f"data.source={small_file}")
    _, both, text = compare(bundle, other_bundle, f"data.source={small_file}")
    assert both["rows"] < own["rows"] < 40
    assert f"{313 - both['rows']} left out that one of the bundles has seen" in text
    assert own["verdict"].startswith("B and A differ by no more than chance explains")


def test_base_rates_hold_for_both_bundles_and_move_their_thresholds(
    compare: Callable[..., Any], bundle: Path, other_bundle: Path, new_people: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    words = [bundle, other_bundle, f"data.source={new_people}", "--output", rows]
    assert compare(*words, "serve.base_rates.E=0.999")[0] == 0
    lines = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    assert {row[f"type_{name}"][0] for row in lines for name in ("first", "second")} == {"E"}


def test_the_gate_refuses_a_worse_bundle_and_lets_an_equal_one_through(
    bundle: Path, worse_bundle: Path, new_people: Path
) -> None:
    with pytest.raises(
        BundleError,
        match=r"is worse than .*, which is served, on 60 people of .*: accuracy -.*, macro-F1 -",
    ) as e:
        require_no_worse(bundle, worse_bundle, str(new_people))
    assert "\n" not in str(e.value)
    assert "no more than chance" in require_no_worse(bundle, bundle, str(new_people))


def test_the_gate_refuses_a_file_of_too_few_people(
    bundle: Path, new_people: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("\n".join(new_people.read_text("utf-8").splitlines()[:6]) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"few\.csv: 5 people: too few to tell .* still serving"):
        require_no_worse(bundle, bundle, str(few))


def test_one_bundle_is_not_enough(compare: Callable[..., Any], bundle: Path) -> None:
    code, _, text = compare(bundle)
    assert code == 2
    assert "compare takes two bundles, as in runs/old" in text


def test_the_rows_themselves_are_no_output(bundle: Path, new_people: Path) -> None:
    before = new_people.read_bytes()
    words = [f"data.source={new_people}", "--output", str(new_people)]
    assert compare_main([str(bundle), str(bundle), *words]) == 2
    assert evaluate_main([str(bundle), *words]) == 2
    assert new_people.read_bytes() == before
