"""The benchmarks: what they need is said first, and the page shows what they wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contracts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=BENCHMARKS, check=False
    )


def test_a_missing_extra_is_one_sentence_and_an_exit_code() -> None:
    start = "import sys; sys.argv = ['benchmarks/train.py']; from extra import require_bench; "
    done = run(f"{start}require_bench('json', 'no_such_package')")
    assert done.returncode == 1
    assert done.stderr == (
        "benchmarks/train.py needs no_such_package; install with pip install 'mbti_ray[bench]'\n"
    )
    assert run(f"{start}require_bench('json')").returncode == 0


def test_the_page_shows_the_figures_of_the_quick_forms() -> None:
    done = run("import tables; page = tables.PAGE.read_text(); "
               "assert '| serve |' in page; assert tables.render_page(page) == page")  # fmt: skip
    assert done.returncode == 0, "run python benchmarks/tables.py"


@pytest.mark.parametrize("name", ["start", "train", "tune", "serve"])
def test_make_bench_runs_what_has_a_quick_form(name: str) -> None:
    (line,) = [
        line
        for line in (BENCHMARKS.parent / "Makefile").read_text("utf-8").splitlines()
        if "--quick" in line
    ]
    assert f" {name} " in line.replace(";", " ")
    assert '"--quick"' in (BENCHMARKS / f"{name}.py").read_text("utf-8")
