"""What `predict` refuses before it has started Ray or written anything."""

import sys

import pytest

from mbti_ray.predict import main

pytestmark = pytest.mark.unit


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file to predict, and what looks like a bundle until it is read."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bundle.json").write_text("{}")
    (tmp_path / "in.csv").write_text("text\nsome words\n")
    (tmp_path / "bad.jsonl").write_text("{oops\n[]\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("in.csv out.csv --fresh", "--fresh is for a folder of parts; --output out.csv is a file"),
        ("in.csv out.csv --part-rows 9", "--part-rows is for a folder of parts"),
        ("in.csv out --part-rows 0", "--part-rows 0; allowed: 1 or more"),
        ("in.csv in.csv", "--output in.csv is the input; name another"),
        ("in.csv none/out", "--output none/out: folder none does not exist"),
        ("in.csv out.txt", 'unknown extension ".txt"'),
        ("bad.jsonl out/", "bad.jsonl: none of its first 2 rows can be used; first: bad.jsonl:1: "),
        ("in.csv out/", "b/bundle.json: format None; this version reads 1"),
        ("in.csv out/ serve.runtime=onx", "serve.runtime='onx' is not allowed; allowed: torch, "),
        (
            "in.csv o/ serve.runtime=onnx scaling.use_gpu=true",
            "serve.runtime=onnx computes on CPUs",
        ),
    ],
)
def test_it_is_one_line_and_nothing_is_written(place, argv, says, capsys):
    before = sorted(place.rglob("*"))
    source, output, *rest = argv.split()
    assert main(["./b", "--input", source, "--output", output, *rest]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(place.rglob("*")) == before
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()
