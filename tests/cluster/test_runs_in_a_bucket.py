"""Runs and studies kept in a bucket: a real S3 server and a real local Ray share nothing else."""

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from long_run import EPOCHS, SETTINGS, Undisturbed
from s3_server import CREDENTIALS, Server, s3_server
from train_runs import attempts_of

from mbti_ray import MBTIClassifier
from mbti_ray.config import load_run, load_study
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.errors import RunError
from mbti_ray.evaluate import main as evaluate
from mbti_ray.export import main as export
from mbti_ray.inference.predictor import Predictor
from mbti_ray.predict import main as predict
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.runs.run_folder import open_run
from mbti_ray.storage.local_cache import local_file
from mbti_ray.storage.remote import RemotePath, parse_location
from mbti_ray.study.records import records_of
from mbti_ray.study.store import open_study
from mbti_ray.train import main as train
from mbti_ray.tune import main as tune

When = Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster", "machine")]

ROOT = Path(__file__).parents[2]

# There when the session's Ray starts, whose processes look for them as on any machine.
for _name, _value in CREDENTIALS.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the driver's machine keeps; the workers know nothing of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def working_copies() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"mbti_ray-{os.geteuid()}/*"))


@pytest.fixture
def others() -> set[Path]:
    """Working copies that are none of the test's: of what was killed once."""
    return working_copies()


def left_over(url: str, others: set[Path]) -> set[Path]:
    """Working copies that stay after those of killed processes have been swept away."""
    for _ in range(100):
        with open_run(url):
            found = working_copies() - others
        if len(found) <= 1:
            break
        # A process that is being killed is not dead yet.
        time.sleep(0.2)
    return working_copies() - others


def epochs_of(url: str) -> list[int]:
    metrics = parse_location(f"{url}/metrics.jsonl")
    if not metrics.exists():
        return []
    return [json.loads(line)["epoch"] for line in metrics.read_text("utf-8").splitlines()]


def put_up(folder: Path, url: str) -> str:
    for file in folder.iterdir():
        place = parse_location(f"{url}/{file.name}")
        assert isinstance(place, RemotePath)
        place.upload(file)
    return url


def test_a_run_in_a_bucket_stops_resumes_and_ends_there_as_it_would_in_a_folder(
    when: When,
    server: Server,
    small_file: Path,
    undisturbed: Undisturbed,
    machine: Path,
    others: set[Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"{server.url}/runs/mine"
    place = [f"storage={server.url}/runs", "name=mine"]
    asking = when(lambda: len(epochs_of(url)) >= 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    new = ["quick", f"data.source={small_file}", "fit.monitor=loss", *SETTINGS, *place]
    assert train(new) == 143
    asking.join()
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "stopped as requested after step" in error
    assert error.endswith("its checkpoint is saved, --resume continues from it")
    assert len(epochs_of(url)) < EPOCHS - 2
    # A stop is no failure, for which Ray would start the workers again.
    assert attempts_of("mine/checkpoints") == [1]
    keys = server.keys("runs")
    assert "runs/mine/failure.txt" in keys
    assert not [key for key in keys if key.startswith("runs/mine/bundle/")]
    assert working_copies() <= others
    assert train(new) == 2
    assert capfd.readouterr().err.startswith(f"{url}: exists already; --resume continues it")
    # All that is known here is the URL.
    assert train(["--resume", *place, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (answer["run"], answer["bundle"]) == (url, f"{url}/bundle")
    assert epochs_of(url) == list(range(1, EPOCHS + 1))
    undisturbed.assert_same_weights(fetch_bundle(url))
    names = {key.removeprefix("runs/mine/") for key in server.keys("runs/mine/")}
    assert names >= {"config.yaml", "metrics.jsonl", "report.html", "scores.json"}
    assert names >= {"bundle/bundle.json", "bundle/card.md", "bundle/model.safetensors"}
    assert not names & {"failure.txt", "stop"}
    assert working_copies() <= others
    assert {p.name for p in machine.iterdir()} == {"cache"}


def test_a_bundle_in_a_bucket_is_evaluated_asked_and_loaded_by_its_url(
    server: Server, bundle: Path, small_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = put_up(bundle, f"{server.url}/made/best/bundle")
    for place in (f"{server.url}/made", server.address("made")):
        classifier = MBTIClassifier.load_from_checkpoint(place)
        text = "I would rather read than go out."
        assert predict([place, text, "--json"]) == 0
        answer = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert answer["predictions"][0]["type"] == classifier.predict(text)
    assert evaluate([f"{server.url}/made", f"data.source={small_file}", "--json"]) == 0
    scored = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert scored["bundle"] == home
    assert evaluate([str(bundle), f"data.source={small_file}", "--json"]) == 0
    assert scored["scores"] == json.loads(capfd.readouterr().out.splitlines()[-1])["scores"]


def test_an_export_goes_into_the_bucket_and_not_into_the_copy_that_others_read(
    server: Server, bundle: Path, small_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    home = put_up(bundle, f"{server.url}/exported/bundle")
    before = fetch_bundle(home)
    assert export([home, f"data.source={small_file}", "--json"]) == 0
    made = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert made["bundle"] == home
    assert set(made["runtimes"]) == {"onnx", "onnx-int8"}
    assert not (before / "onnx").exists()
    after = fetch_bundle(home)
    assert after != before
    assert Predictor.load(after, runtime="onnx").info["runtimes"] == made["runtimes"]


@pytest.mark.long
def test_what_the_task_that_scores_the_best_trial_refuses_is_one_line(
    server: Server, small_file: Path, tmp_path: Path
) -> None:
    from mbti_ray.on_ray.cluster.resources import Resources
    from mbti_ray.on_ray.tune.tuner import finish_study

    config = load_study(str(ROOT / "tune_configs/quick.yaml"), [f"data.source={small_file}"])
    data = prepare_dataset(config, tmp_path / "cache")
    url = f"{server.url}/studies/refused"
    parse_location(f"{url}/trials/one/last/progress.json").write_text("{}", "utf-8")
    with open_run(url) as folder:
        folder.begin(config, "resume")
        study = open_study(folder.path, config, name="refused")
        trial = study.ask()
        found = {"folder": "trials/one", "checkpoint": "last", "values": [0.5], "epochs": 1}
        for name, value in found.items():
            trial.set_user_attr(name, value)
        study.tell(trial, 0.5)
        with pytest.raises(RunError, match="last: checkpoint is damaged") as refused:
            finish_study(config, [data], study, folder, Resources(1, 0.0), at_once=1)
    assert "\n" not in str(refused.value)


@pytest.mark.long
def test_a_study_in_a_bucket_goes_on_with_more_trials_from_its_url_alone(
    server: Server,
    small_file: Path,
    tmp_path: Path,
    others: set[Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    tree = {
        "preset": "quick",
        "data": {"source": str(small_file)},
        "fit": {"epochs": 2, "patience": None},
        "study": {"trials": 3, "startup_trials": 4, "scheduler": "asha", "reduction": 2},
        "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree), "utf-8")
    url = f"{server.url}/studies/mine"
    place = [f"storage={server.url}/studies", "name=mine", "--json"]
    assert tune([str(file), *place]) == 0
    first = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (first["study"], first["bundle"]) == (url, f"{url}/best/bundle")
    file.unlink()
    # The fourth trial has two workers: it is a run of its own below the study.
    assert tune([*place, "--resume", "study.trials=4", "scaling.workers=2"]) == 0
    second = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert sum(second["trials"].values()) == 4
    with open_run(url) as folder:
        config = load_study(str(folder.config))
        records = records_of(open_study(folder.path, config, name="mine"))
    assert len({r.params["optim.lr"] for r in records}) == 4
    names = {key.removeprefix("studies/mine/") for key in server.keys("studies/mine/")}
    assert names >= {"config.yaml", "optuna.db", "trials.parquet", "report.html"}
    assert names >= {"best/config.yaml", "best/scores.json", "best/bundle/bundle.json"}
    assert "trials/trial-0003/metrics.jsonl" in names
    best = next(r for r in records if r.params == second["best"])
    assert best.values == [second["scores"]["val"]["acc_mean"]]
    again = second["command"].split()[3]
    assert load_run(local_file(again)).optim.lr == best.params["optim.lr"]
    # The scheduler ended the fourth trial's processes at its last epoch, wherever they were.
    assert left_over(url, others) == set()
