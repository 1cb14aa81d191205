"""Checkpoints, bundles and studies by URL, against a real S3 server."""

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from buckets import files_under

from mbti_ray.config import StudyConfig, load_study
from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.errors import ConfigError, RunError
from mbti_ray.on_ray.train.remote_checkpoints import download_each
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle
from mbti_ray.runs.run_folder import open_run
from mbti_ray.storage.remote import RemotePath
from mbti_ray.study.records import records_of
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("machine")]


# Checkpoints


def put_checkpoint(place: RemotePath, step: int, *, leave_out: str = "") -> RemotePath:
    for name in {"model.safetensors", "optimizer.pt", "progress.json"} - {leave_out}:
        (place / name).write_text(json.dumps({"step": step}), "utf-8")
    return place


def test_the_checkpoints_of_a_store_are_those_with_all_their_files_most_steps_first(
    bucket: RemotePath,
) -> None:
    early = put_checkpoint(bucket / "trial-1" / "checkpoint_000001", 5)
    late = put_checkpoint(bucket / "trial-1" / "checkpoint_000000", 20)
    put_checkpoint(bucket / "trial-1" / "checkpoint_000009", 90, leave_out="optimizer.pt")
    assert checkpoints_under(bucket) == [late, early]
    assert checkpoints_under(bucket / "trial-2") == []


def test_checkpoints_are_brought_one_at_a_time_and_go_with_the_list(
    bucket: RemotePath, machine: Path
) -> None:
    places = [put_checkpoint(bucket / f"checkpoint_{n}", n) for n in (2, 1)]
    fetched = download_each(places)
    assert files_under(machine) == set()
    seen = []
    for path in fetched:
        seen.append(json.loads((path / "progress.json").read_text("utf-8"))["step"])
        assert len([f for f in files_under(machine) if "checkpoint_" in f]) == 3
    assert seen == [2, 1]
    del fetched
    assert files_under(machine) == set()


def test_a_checkpoint_that_is_gone_is_passed_over_as_a_damaged_one_is(bucket: RemotePath) -> None:
    gone, there = bucket / "checkpoint_2", put_checkpoint(bucket / "checkpoint_1", 1)
    first, second = [set(files_under(path)) for path in download_each([gone, there])]
    assert first == set()
    assert second == {"model.safetensors", "optimizer.pt", "progress.json"}


# Bundles


def put_bundle(place: RemotePath, weights: str = "weights", **manifest: Any) -> RemotePath:
    (place / "model.safetensors").write_text(weights, "utf-8")
    (place / "onnx" / "graph.onnx").write_text("graph", "utf-8")
    digest = hashlib.sha256(b"weights").hexdigest()
    files = {"model.safetensors": {"bytes": 7, "sha256": digest}}
    (place / "bundle.json").write_text(json.dumps({"files": files, **manifest}), "utf-8")
    return place


def test_a_bundle_by_url_is_found_at_its_own_folder_a_run_and_a_study(bucket: RemotePath) -> None:
    run = put_bundle(bucket / "run" / "bundle")
    best = put_bundle(bucket / "study" / "best" / "bundle", id=1)
    local = fetch_bundle(str(run))
    assert files_under(local) == {"bundle.json", "model.safetensors", "onnx/graph.onnx"}
    assert fetch_bundle(str(bucket / "run")) == local
    assert fetch_bundle(str(bucket / "study")) == fetch_bundle(best)
    assert locate_bundle(str(bucket / "study"), "./runs") == best
    with pytest.raises(RunError, match=rf"{bucket}/nothing: no such folder"):
        fetch_bundle(str(bucket / "nothing"))


def test_the_newest_bundle_of_a_store_is_a_studys_even_where_a_run_is_newer(
    bucket: RemotePath,
) -> None:
    best = put_bundle(bucket / "study" / "best" / "bundle", id=1)
    put_bundle(bucket / "run" / "bundle", id=2)
    assert locate_bundle(None, str(bucket)) == best
    local = fetch_bundle(locate_bundle(None, str(bucket)))
    assert json.loads((local / "bundle.json").read_text("utf-8"))["id"] == 1
    with pytest.raises(RunError, match=r"contains no bundle; create one with"):
        locate_bundle(None, str(bucket / "empty"))


def test_a_bundle_is_copied_once_and_again_when_it_has_changed(bucket: RemotePath) -> None:
    bundle = put_bundle(bucket / "bundle", runtimes={})
    first = fetch_bundle(bundle)
    mark = (first / "model.safetensors").stat().st_ino
    assert fetch_bundle(bundle) == first
    assert (first / "model.safetensors").stat().st_ino == mark
    put_bundle(bundle, runtimes={"onnx": 1})
    assert fetch_bundle(bundle) != first


def test_copies_are_told_apart_by_their_url_even_with_the_same_manifest(bucket: RemotePath) -> None:
    mine = fetch_bundle(put_bundle(bucket / "mine"))
    theirs = fetch_bundle(put_bundle(bucket / "theirs", "WEIGHTS"))
    assert (mine / "bundle.json").read_bytes() == (theirs / "bundle.json").read_bytes()
    assert (mine / "model.safetensors").read_text("utf-8") == "weights"
    assert (theirs / "model.safetensors").read_text("utf-8") == "WEIGHTS"


@pytest.mark.parametrize("content", ["WEIGHTS", "weigh", None])
def test_a_damaged_copy_is_downloaded_again(bucket: RemotePath, content: str | None) -> None:
    copy = fetch_bundle(put_bundle(bucket / "bundle"))
    (copy / "model.safetensors").unlink()
    if content is not None:
        (copy / "model.safetensors").write_text(content, "utf-8")
    assert fetch_bundle(bucket / "bundle") == copy
    assert (copy / "model.safetensors").read_text("utf-8") == "weights"


def test_copies_that_nobody_asked_for_in_a_month_go_when_another_one_comes(
    bucket: RemotePath,
) -> None:
    unused, used = (fetch_bundle(put_bundle(bucket / n)) for n in ("a", "b"))
    long_ago = time.time() - 31 * 86400
    for copy in (unused, used):
        os.utime(copy, (long_ago, long_ago))
    assert fetch_bundle(bucket / "b") == used
    fetch_bundle(put_bundle(bucket / "c"))
    assert used.exists()
    assert not unused.exists()


def test_replicas_that_ask_for_a_bundle_at_once_all_get_it_whole(
    bucket: RemotePath, machine: Path
) -> None:
    bundle = put_bundle(bucket / "bundle")
    found: list[set[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(files_under(fetch_bundle(bundle))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"bundle.json", "model.safetensors", "onnx/graph.onnx"}] * 8
    assert len(list((machine / "cache" / "mbti_ray" / "bundles").iterdir())) == 1


# Studies


def study_config(folder: Path, *changes: str) -> StudyConfig:
    tree = {
        "preset": "quick",
        "study": {"trials": 8, "try_default": False},
        "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    return load_study(str(folder / "study.yaml"), changes)


def try_a_point(study: optuna.Study, config: StudyConfig, value: float) -> None:
    trial = ask_trial(study, config.search)
    assert trial is not None
    for name, figure in {"values": [value], "evaluations": [[1, value]]}.items():
        trial.set_user_attr(name, figure)
    study.tell(trial, value)


@pytest.mark.parametrize("storage", ["null", "journal"])
def test_a_study_in_a_store_goes_on_on_another_machine_with_what_was_cut_off(
    bucket: RemotePath, tmp_path: Path, machine: Path, storage: str
) -> None:
    config = study_config(tmp_path, f"study.storage={storage}")
    with open_run(bucket / "study") as folder:
        folder.begin(config, "refuse")
        study = open_study(folder.path, config, name="study")
        try_a_point(study, config, 0.5)
        running = ask_trial(study, config.search)
        assert running is not None
        folder.push()
        # The machine is lost before this is put up.
        try_a_point(study, config, 0.9)
    assert files_under(machine) == set()
    with open_run(bucket / "study") as folder:
        again = open_study(folder.path, config, name="study")
        first, lost, waiting = records_of(again)[0], *again.get_trials()[1:]
        assert (first.state, first.values) == ("COMPLETE", [0.5])
        assert (lost.state.name, lost.params) == ("FAIL", running.params)
        assert waiting.state.name == "WAITING"
        assert waiting.user_attrs == {"retry_of": 1}


def test_a_study_begins_with_what_another_in_a_store_has_learned(
    bucket: RemotePath, tmp_path: Path
) -> None:
    config = study_config(tmp_path)
    with open_run(bucket / "earlier") as folder:
        folder.begin(config, "refuse")
        try_a_point(open_study(folder.path, config, name="earlier"), config, 0.75)
        folder.push()
    later = study_config(tmp_path, f"study.warm_start=[{bucket}/earlier]")
    (record, *_) = records_of(open_study(tmp_path, later, name="later"))
    assert (record.imported, record.values) == ("earlier, trial 0", [0.75])
    nowhere = study_config(tmp_path, f"study.warm_start=[{bucket}/nothing]")
    with pytest.raises(ConfigError, match=rf"study.warm_start={bucket}/nothing: is not the folder"):
        open_study(tmp_path, nowhere, name="other")
