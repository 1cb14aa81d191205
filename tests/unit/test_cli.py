"""Bad input of every verb: exit code 2, one line, no traceback, no Ray, nothing written."""

import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbti_ray.__main__ import TOOLS, VERBS, main
from mbti_ray.cli import completion

pytestmark = pytest.mark.unit

STUDY = str(Path(__file__).parents[2] / "tune_configs" / "quick.yaml")
LONG = "words" * 60
UNKNOWN_TYPES = "type,posts\n" + "XXXX,some words\n" * 8 + "INTJ,other words\n" * 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with a few files of bad input next to it."""
    inputs = tmp_path / "inputs"
    here = tmp_path / "here"
    here.mkdir()
    (inputs / "bundle").mkdir(parents=True)
    # Enough to be found; it is read only after the other arguments were.
    (inputs / "bundle" / "bundle.json").write_text("{}")
    (inputs / "file").write_text("")
    (inputs / "empty.csv").write_text("")
    (inputs / "header.csv").write_text("type,posts\n")
    (inputs / "unknown.csv").write_text(UNKNOWN_TYPES)
    (inputs / "noposts.csv").write_text("type,words\nINTJ,some\n")
    (inputs / "good.csv").write_text("text\nsome words\n")
    (inputs / "list.yaml").write_text("- 1\n")
    (inputs / "study.yaml").write_text(
        "preset: quick\nsearch: {scaling.workers: {choices: [1, 2]}}"
    )
    monkeypatch.chdir(here)
    return inputs


def ray_runs():
    """Whether this process is connected to a Ray; asked without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def refusal(argv, place, capsys):
    """The one line with which a command is refused, having done nothing."""
    before = files_in(place.parent)
    environment, ran = ray_variables(), ray_runs()
    assert main([argument.format(d=place, study=STUDY) for argument in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1, output.err
    assert "Traceback" not in output.err
    assert files_in(place.parent) == before
    assert ray_variables() == environment
    assert ray_runs() == ran
    return output.err.strip()


def ray_variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def files_in(folder):
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "optim.lrr=1"], 'command line: unknown key "optim.lrr"; allowed here: lr, '),
        (["train", "optim.lr=-1"], "command line: optim.lr='-1' is not allowed; allowed: "),
        (["train", "qick"], 'command line: "qick" is neither a preset nor a .yaml file; presets: '),
        (
            ["train", "{d}/none.yaml"],
            "none.yaml: no such file; presets: default, minilm, posts, quick",
        ),
        (["train", "{d}/list.yaml"], "list.yaml: contains a list; allowed: a mapping of settings"),
        (["train", "quick", "words"], 'command line: "words" is neither a preset, a file nor key='),
        (["train", "data.source={d}/none.csv"], "none.csv: no such file; allowed: builtin, a "),
        (["train", "data.source={d}/empty.csv"], "empty.csv: has no rows"),
        (["train", "data.source={d}/header.csv"], "header.csv: has no rows"),
        (
            ["train", "data.source={d}/noposts.csv"],
            'noposts.csv: no column "posts" or "text"; needed: type',
        ),
        (["train", "data.source={d}/unknown.csv"], "8 of 10 rows are bad (data.max_bad_share"),
        (["train", "data.source={d}/unknown.csv"], 'type "XXXX" has no letter of E/I in place 1'),
        (["train", "storage={d}/file"], "is a file; allowed: a folder"),
        (["train", "storage=ftp://host/runs"], "allowed: a folder, s3://, gs://"),
        (["train", "name=a/b"], "command line: name='a/b' is not allowed; allowed: text"),
        (["train", "name=cache"], "name=cache: is the folder of tokenized data"),
        (["train", "--resume"], "no run called quick-... to resume"),
        (["train", "--resume", "name=mine"], "mine: no run to resume"),
        (["train", "--fresh", "name=bundle", "storage={d}"], "so it is not a run; not deleted"),
        (["train", "model.encoder=./none"], "model.encoder=./none: no such folder"),
        (["tune", "{study}", "optim.lrr=1"], 'command line: unknown key "optim.lrr"'),
        (
            ["tune", "{study}", "study.trials=0"],
            "study.trials='0' is not allowed; allowed: integer",
        ),
        (["tune", "{study}", "data.source={d}/empty.csv"], "empty.csv: has no rows"),
        (["tune", "{study}", "data.source={d}/unknown.csv"], "8 of 10 rows are bad"),
        (["tune", "{study}", "--resume"], "no run called study-quick-... to resume"),
        (["tune", "{d}/study.yaml"], 'search: "scaling.workers" cannot be searched; allowed: '),
        (["tune", "{d}/none.yaml"], "none.yaml: no such file"),
        (["tune", "quick"], "searches nothing; did you mean tune_configs/quick.yaml? Or name wh"),
        (["train", "--epochs", "3"], "--epochs is not an option; settings are key=value: fit.epo"),
        (["train", "quick", "--epochs", "3"], "settings are key=value: fit.epochs=3"),
        (["tune", "{study}", "--n_trials=4"], "settings are key=value: study.trials=4"),
        (["serve", "--port", "9000"], "settings are key=value: serve.port=9000"),
        (["train", "learning_rate=1"], 'did you mean "optim.lr"?'),
        (["train", "batch_size=8"], 'did you mean "fit.batch_size"?'),
        (["train", "optim.learning_rate=1"], 'did you mean "optim.lr"?'),
        (
            ["train", "my.csv"],
            "presets: default, minilm, posts, quick; did you mean data.source=my",
        ),
        (["audit", "data.source=mycsv"], "mycsv: no such file; allowed: builtin, a file (.csv"),
        (["train", "data=my.csv"], 'did you mean "data.source"?'),
        (["audit", f"data.source={LONG}"], " is too long for the name of a file"),
        *(
            ([*verb, "{d}/bundle/new.csv"], "/bundle/new.csv: is inside the bundle ")
            for verb in (
                ["evaluate", "{d}/bundle", "--output"],
                ["compare", "{d}/bundle", "{d}/bundle", "--output"],
                ["predict", "{d}/bundle", "--input", "{d}/good.csv", "--output"],
                ["audit", "--output"],
            )
        ),
        (["evaluate", LONG], " is too long for the name of a file"),
        (["predict", "some words " * 30], "contains no bundle; create one"),
        (["config", "qick"], 'command line: "qick" is neither a preset nor a .yaml file; presets'),
        (["completion", "fish"], 'command line: "fish" is not a shell; allowed: bash, zsh'),
        *(
            ([verb, ""], "command line: an argument is empty, as that of an unset shell variable")
            for verb in (
                "train",
                "tune",
                "evaluate",
                "serve",
                "export",
                "audit",
                "doctor",
                "config",
            )
        ),
        (["export", "{d}/bundle", "--to", "hf", "{d}/bundle/new"], "is inside the bundle "),
        (["export", "{d}/bundle", "--to", "hf", "{d}"], "is not empty; name a new folder"),
        (
            ["evaluate", "--base-rates", "50"],
            'base rates: "50" is not allowed; allowed: shares of E, N, T and J, as in E=0.5,N=0.3',
        ),
        (["evaluate", "--base-rates", "I=0.3"], "shares of E, N, T and J, as I=0.3 is E=0.7"),
        (["evaluate", "--base-rates", "E=0.3,e=0.4"], "base rates: E is given twice"),
        (["evaluate"], "contains no bundle; create one with `python -m mbti_ray.tune`"),
        (["evaluate", "{d}/none"], "none: no such folder"),
        (
            ["evaluate", "{d}/../here"],
            "here: is not a bundle or a run with a bundle (no bundle.json in it)",
        ),
        (["evaluate", "{d}/bundle", "optim.lrr=1"], 'command line: unknown key "optim.lrr"'),
        (["evaluate", "{d}/bundle"], "bundle.json: format None; this version reads 1"),
        (["predict"], 'command line: nothing to predict; give "text" ..., or --input FILE'),
        (
            ["predict", "some words"],
            "contains no bundle; create one with `python -m mbti_ray.tune`",
        ),
        (["predict", "{d}/none/x", "some words"], "none/x: no such folder"),
        (["predict", "{d}/bundle", "some words"], "bundle.json: format None; this version reads 1"),
        (["predict", "--input", "{d}/good.csv"], "command line: --input and --output go together"),
        (["predict", "--output", "x.csv", "words"], "command line: --input and --output go toget"),
        (
            ["predict", "{d}/bundle", "words", "--input", "{d}/good.csv", "--output", "x.csv"],
            'command line: both --input and a text ("words"); give one',
        ),
        (
            ["predict", "{d}/bundle", "--input", "{d}/good.csv", "--output", "x.cvs"],
            'unknown extension ".cvs"; allowed: .csv, .jsonl, .parquet; did you mean ".csv"?',
        ),
        (
            ["predict", "{d}/bundle", "--input", "{d}/good.csv", "--output", "none/x.csv"],
            "--output none/x.csv: folder none does not exist",
        ),
        (
            ["predict", "{d}/bundle", "--input", "{d}/none.csv", "--output", "x.csv"],
            "none.csv: no such file",
        ),
        (
            ["predict", "{d}/bundle", "--input", "{d}/empty.csv", "--output", "x.csv"],
            "empty.csv: has no rows",
        ),
        (["predict", "storag=x", "some words"], '"storag" is not accepted here'),
        (["serve"], "contains no bundle; create one with `python -m mbti_ray.tune`"),
        (["serve", "{d}/none"], "none: no such folder"),
        (["serve", "optim.lr=1"], '"optim.lr=1" does not apply to a service; allowed: serve.*, st'),
        (["serve", "serve.prt=1"], 'unknown key "serve.prt"; allowed here: runtime, '),
        (["serve", "serve.port=0"], "serve.port='0' is not allowed; allowed: integer"),
        (["doctor", "optim.lrr=1"], 'command line: unknown key "optim.lrr"'),
        (
            ["doctor", "qick"],
            'command line: "qick" is neither a preset nor a .yaml file; presets: ',
        ),
        (["doctor", "{d}/study.yaml"], 'search: "scaling.workers" cannot be searched; allowed: '),
        (["doctor", "--cluster", "{d}/none.yaml"], "none.yaml: no such file"),
        (["doctor", "storage={d}/file"], "is a file; allowed: a folder"),
        (
            ["nonsense"],
            'unknown command "nonsense"; allowed: train, tune, evaluate, compare, predict',
        ),
        (["trian"], 'did you mean "train"?'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_does_nothing(argv, message, place, capsys):
    line = refusal(argv, place, capsys)
    assert message in line


def test_a_run_that_exists_is_left_as_it_is(place, capsys):
    folder = place / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("{}\n")
    (folder / "metrics.jsonl").write_text("{}\n")
    line = refusal(["train", "storage={d}", "name=mine"], place, capsys)
    assert line.startswith(f"{folder}: exists already; ")
    assert (folder / "metrics.jsonl").read_text() == "{}\n"


def test_all_mistakes_are_printed_at_once(place, capsys):
    assert main(["train", "optim.lrr=1", "optim.lr=-1", "zzz=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("command line: ") for line in lines)


def test_json_is_not_printed_for_bad_input(place, capsys):
    assert main(["train", "--json", "optim.lrr=1"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--nonsense"],
        ["train", "-e", "3"],
        ["train", "--resume", "--fresh"],
        ["evaluate", "--split", "half"],
        ["predict", "--input"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_exits_with_2(argv, place, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: python -m mbti_ray." in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_is_there(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"usage: python -m mbti_ray.{verb} ")
    assert "--json" in output.out
    assert {*re.findall(r"--[a-z-]+", output.out)} <= {*completion.OPTIONS.split()}
    *_, examples = output.out.partition("examples:\n")
    assert examples.startswith(f"  python -m mbti_ray.{verb} "), "it ends with examples"
    assert output.err == ""
    assert max(map(len, output.out.splitlines())) <= 80


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_of_the_whole_lists_every_verb(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: mbti-ray VERB")
    assert [line.split()[0] for line in lines[2:]] == [*VERBS, *TOOLS]
    assert completion.COMMANDS.split() == [*VERBS, *TOOLS]


def test_the_version_is_the_packages(capsys):
    import mbti_ray

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == mbti_ray.__version__


def test_training_rows_of_one_pole_are_refused_before_ray_starts(place, capsys):
    rows = [f'{t},"{t[2:]} writes row {n}"' for n in range(20) for t in ("INTJ", "INFP", "ESTJ")]
    one_pole = place / "thinkers.csv"
    one_pole.write_text("type,posts\n" + "\n".join(rows).replace("INFP", "INTP") + "\n")
    assert main(["train", f"data.source={one_pole}", f"storage={place / 'runs'}"]) == 2
    *shown, error = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("mbti-ray ")
    assert "thinkers.csv: in all 48 training rows T/F is T, and a head needs both poles" in error
    assert not ray_runs()
    assert [path.name for path in (place / "runs").iterdir()] == ["cache"]


def test_a_command_runs_in_a_thread_where_ctrl_c_is_the_systems():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(main, ["audit", "data.source=no.csv"]).result() == 2
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
