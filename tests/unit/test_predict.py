"""What `predict` refuses before it starts Ray or writes anything."""

import sys

import pytest

from mbti_ray.predict import main

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file to predict, and a bundle whose manifest is invalid."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bundle.json").write_text("{}")
    (tmp_path / "in.csv").write_text("text\nsome words\n")
    (tmp_path / "bad.jsonl").write_text("{oops\n[]\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "in.csv out.csv --fresh",
            "--fresh requires a folder of parts; --output out.csv is a",
        ),
        ("in.csv out.csv --part-rows 9", "--part-rows requires a folder of parts"),
        ("in.csv out --part-rows 0", "--part-rows 0; allowed: 1 or more"),
        ("in.csv in.csv", "--output in.csv is the input; name another"),
        ("in.bad.jsonl in.csv", "--output in.csv lists its bad rows in the input; name another"),
        ("in.csv none/out", "--output none/out: folder none does not exist"),
        ("in.csv out.txt", 'unknown extension ".txt"'),
        ("bad.jsonl out/", "bad.jsonl: none of its first 2 rows can be used; first: bad.jsonl:1: "),
        ("in.csv out/", "b/bundle.json: format None; this version reads 1"),
        ("in.csv out/ serve.runtime=onx", "serve.runtime='onx' is not allowed; allowed: torch, "),
        (
            "in.csv o/ serve.runtime=onnx scaling.use_gpu=true",
            "serve.runtime=onnx runs on CPUs only",
        ),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(folder, argv, message, capsys):
    before = sorted(folder.rglob("*"))
    source, output, *rest = argv.split()
    assert main(["./b", "--input", source, "--output", output, *rest]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()
