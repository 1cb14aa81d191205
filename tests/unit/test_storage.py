"""Storage by URL, against a real S3 server and fsspec's memory: places, runs, bundles, studies."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import optuna
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from s3_server import CREDENTIALS, Server, s3_server

from mbti_ray.config import RunConfig, StudyConfig, load_run, load_study
from mbti_ray.engine.checkpoint import checkpoints_under, newest_checkpoint
from mbti_ray.errors import ConfigError, MbtiRayError, RunError, StorageError
from mbti_ray.on_ray.train.remote_checkpoints import download_each
from mbti_ray.runs.lookup import cache_folder, fetch_bundle, locate_bundle, locked_run_folder
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.storage.local_cache import local_file, user_cache_folder
from mbti_ray.storage.remote import RemotePath, absolute_location, parse_location
from mbti_ray.storage.working_copy import working_copy_path
from mbti_ray.study.records import records_of
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this machine holds: its folders for what is temporary and for copies are in it."""
    place = tmp_path / "machine"
    (place / "tmp").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    return place


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> RemotePath:
    """A prefix of the test's own."""
    return remote(f"{server.url}/{request.node.name.translate(dict.fromkeys(b'[]/:'))}")


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest, server: Server) -> Iterator[RemotePath]:
    name = request.node.name.translate(dict.fromkeys(b"[]/:"))
    yield remote(f"{server.url}/{name}" if request.param == "s3" else f"fsspec+memory://x/{name}")
    MemoryFileSystem.store.clear()


def remote(url: str) -> RemotePath:
    found = parse_location(url)
    assert isinstance(found, RemotePath)
    return found


def files_under(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def resolve_run_folder(config: RunConfig, **options: Any) -> RunFolder:
    """The folder that a command would get, after it has given its lock back."""
    with locked_run_folder(config, **options) as folder:
        return folder


def config_in(storage: RemotePath, *overrides: str) -> RunConfig:
    return load_run("quick", [f"storage={storage}", *overrides])


# Places


def test_a_file_is_there_as_soon_as_it_is_written_and_what_was_there_before_is_gone(
    place: RemotePath,
) -> None:
    file = place / "a" / "note.txt"
    assert not file.exists()
    file.write_text("longer than the second", "utf-8")
    file.write_text("sécond", "utf-8")
    assert file.read_text("utf-8") == "sécond"
    assert file.is_file()
    assert (place / "a").exists()
    assert not (place / "a").is_file()
    assert (file.name, file.parent) == ("note.txt", place / "a")


def test_what_is_put_up_comes_back_as_a_file_and_as_a_whole_folder(
    place: RemotePath, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 4096)
    for name in ("bundle/weights", "bundle/onnx/graph", "other/weights"):
        (place / name).upload(tmp_path / "weights")
    (place / "bundle" / "weights").download(tmp_path / "new" / "file")
    (place / "bundle").download(tmp_path / "whole")
    assert files_under(tmp_path / "whole") == {"weights", "onnx/graph"}
    content = (tmp_path / "weights").read_bytes()
    assert (tmp_path / "new" / "file").read_bytes() == content
    assert (tmp_path / "whole" / "onnx" / "graph").read_bytes() == content


def test_deleting_takes_a_file_or_a_whole_folder_and_no_more(place: RemotePath) -> None:
    for name in ("run/a", "run/deep/b", "run-2/a", "file"):
        (place / name).write_text("x", "utf-8")
    (place / "run").delete()
    (place / "file").delete()
    (place / "nothing").delete()
    assert not (place / "run").exists()
    assert not (place / "file").exists()
    assert (place / "run-2" / "a").is_file()


def test_files_are_found_by_pattern_and_by_name(place: RemotePath) -> None:
    for name in ("quick-1/config.yaml", "quick-2/config.yaml", "tune-1/best/config.yaml", "a.yaml"):
        (place / name).write_text(name, "utf-8")
    found = place.glob("quick-*/config.yaml")
    assert [f.parent.name for f in found] == ["quick-1", "quick-2"]
    assert [f.read_text("utf-8") for f in found] == ["quick-1/config.yaml", "quick-2/config.yaml"]
    assert place.glob("*/best/config.yaml") == [place / "tune-1" / "best" / "config.yaml"]
    assert len(place.rglob("config.yaml")) == 3
    assert place.files() == [place / "a.yaml"]
    assert (place / "nothing").glob("*/x") == (place / "nothing").files() == []


def test_nothing_cannot_be_fetched(place: RemotePath, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        (place / "nothing").download(tmp_path / "x")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert parse_location(f"file://{tmp_path}/with%20space") == tmp_path / "with space"
    assert cache_folder(f"file://{tmp_path}") == tmp_path / "cache"


def test_tokenised_data_stays_on_this_machine(bucket: RemotePath) -> None:
    assert cache_folder(str(bucket)) == user_cache_folder() / "datasets"


def test_options_of_a_url_stay_behind_what_is_joined_to_it(server: Server) -> None:
    given = server.address("runs")
    joined = remote(given) / "quick-1" / "best"
    assert joined.url == given.replace("/runs?", "/runs/quick-1/best?")
    assert joined.path == "bucket/runs/quick-1/best"
    assert joined.parent.url == given.replace("/runs?", "/runs/quick-1?")
    assert absolute_location(joined) == joined.url


def test_what_travels_to_another_machine_knows_the_server_but_not_the_credentials(
    bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "a").write_text("here", "utf-8")
    travelling = pickle.dumps(bucket)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in travelling
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert (pickle.loads(travelling) / "a").read_text("utf-8") == "here"


def test_a_config_by_url_is_read_from_a_copy(bucket: RemotePath) -> None:
    (bucket / "config.yaml").write_text("preset: quick\nseed: 5\n", "utf-8")
    base = local_file(str(bucket / "config.yaml"))
    assert load_run(base).seed == 5
    assert local_file("quick") == "quick"
    assert local_file(None) is None


# What cannot be reached


def refusal(url: str) -> str:
    """The sentence with which a run in this storage is refused, before anything is done for it."""
    with pytest.raises(MbtiRayError) as caught:
        resolve_run_folder(
            load_run("quick", [f"storage={url}"]), default_name="quick", existing="refuse"
        )
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.exit_code == 2
    return said


@pytest.mark.usefixtures("server")
def test_a_bucket_that_does_not_exist_is_refused_with_what_to_do() -> None:
    said = refusal("s3://nobody/runs")
    assert said.startswith("s3://nobody/runs/")
    assert ": NO_SUCH_BUCKET" in said
    assert said.endswith("create the bucket, or name one that exists")


def test_wrong_credentials_are_refused_with_where_they_come_from(server: Server) -> None:
    def known_users_only(count: str) -> None:
        httpx.post(f"{server.endpoint}/moto-api/reset-auth", content=count).raise_for_status()

    known_users_only("0")
    try:
        said = refusal(f"{server.url}/runs")
    finally:
        known_users_only("inf")
    assert said.startswith(f"{server.url}/runs/")
    assert ": INVALID_ACCESS_KEY_ID" in said
    assert said.endswith("check the credentials (AWS_ACCESS_KEY_ID, a profile, a role)")


@pytest.mark.usefixtures("server")
def test_a_store_that_does_not_answer_is_refused_with_where_it_was_looked_for() -> None:
    said = refusal("s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=x")
    assert "NETWORK_CONNECTION" in said
    assert said.endswith("check the network, and AWS_ENDPOINT_URL where it is set")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/runs", "Unrecognized filesystem type"),
        ("fsspec+nobody://host/runs", "Protocol not known: nobody"),
        ("s3:///runs", "Missing bucket name"),
        ("s3://", "has no bucket; allowed: s3://BUCKET/PREFIX"),
        ("s3://key:hidden@bucket/runs", "pass credentials by the environment"),
        ("abfs://runs@account/x?sig=hidden", "account/x?sig=***: contains a password"),
        ("s3://bucket/runs?region=x&secret_key=hidden", "region=x&secret_key=***: contains"),
        ("s3://bucket/runs?X-Amz-Signature=hidden", "X-Amz-Signature=***: contains a password"),
    ],
)
def test_a_url_that_is_no_storage_is_refused(url: str, reason: str) -> None:
    said = refusal(url)
    assert reason in said
    assert "hidden" not in said


# Runs


def test_a_run_begins_in_the_store_and_leaves_nothing_on_this_machine(
    bucket: RemotePath, machine: Path
) -> None:
    config = config_in(bucket, "name=mine")
    chosen = resolve_run_folder(config, default_name="quick", existing="refuse")
    assert not chosen.location.exists()
    assert files_under(machine) == set()
    with chosen.checked_out() as folder:
        folder.begin(config, "refuse")
        folder.write_bad_rows([{"number": 3}])
        assert files_under(machine)
    assert files_under(machine) == set()
    with open_run(str(bucket / "mine")) as again:
        assert load_run(str(again.config)) == config
        assert json.loads(again.bad_rows.read_text("utf-8")) == {"number": 3}


def test_a_run_in_a_store_is_refused_resumed_and_deleted_as_in_a_folder(bucket: RemotePath) -> None:
    config = config_in(bucket, "name=mine")
    with resolve_run_folder(
        config, default_name="quick", existing="refuse"
    ).checked_out() as folder:
        folder.begin(config, "refuse")
        for name in ("metrics.jsonl", "failure.txt", "notes.txt", "stop"):
            (folder.path / name).write_text("{}\n")
        folder.push()
    with pytest.raises(RunError, match=rf"{bucket}/mine: exists already; --resume"):
        resolve_run_folder(config, default_name="quick", existing="refuse")
    with pytest.raises(RunError, match=r'no run to resume; did you mean "mine"'):
        resolve_run_folder(config_in(bucket, "name=mime"), default_name="quick", existing="resume")
    with resolve_run_folder(
        config, default_name="quick", existing="resume"
    ).checked_out() as folder:
        assert folder.failure.exists()
        folder.begin(config, "resume")
        assert folder.metrics.exists()
    assert {f.name for f in (bucket / "mine").files()} == {"config.yaml", "metrics.jsonl"}
    with resolve_run_folder(config, default_name="quick", existing="fresh").checked_out() as folder:
        folder.begin(config, "fresh")
    assert {f.name for f in (bucket / "mine").files()} == {"config.yaml"}


def test_resume_without_a_name_takes_the_run_of_the_preset_that_began_last(
    bucket: RemotePath,
) -> None:
    for name in ("quick-2", "quick-1", "tune-9"):
        # The server counts whole seconds.
        threading.Event().wait(1.1 if name == "quick-1" else 0)
        with RunFolder.at(bucket / name).checked_out() as folder:
            folder.begin(config_in(bucket), "refuse")
    chosen = resolve_run_folder(config_in(bucket), default_name="quick", existing="resume")
    assert chosen.location == bucket / "quick-1"


def test_a_folder_that_is_no_run_is_not_deleted(bucket: RemotePath) -> None:
    (bucket / "photos" / "1.jpg").write_text("x", "utf-8")
    with pytest.raises(RunError, match=r"so it is not a run; not deleted"):
        resolve_run_folder(config_in(bucket, "name=photos"), default_name="quick", existing="fresh")


def test_only_what_has_changed_is_put_up_and_the_marks_of_a_whole_come_last() -> None:
    written: list[str] = []

    class Recording(MemoryFileSystem):  # type: ignore[misc]
        cachable = False

        def _open(self, path: str, mode: str = "rb", **options: object) -> object:
            if "w" in mode:
                written.append(path.removeprefix("/store/run/"))
            return super()._open(path, mode, **options)

    store = RemotePath("fsspec+memory://store", "/store", PyFileSystem(FSSpecHandler(Recording())))
    with RunFolder.at(store / "run").checked_out() as folder:
        folder.bundle.mkdir()
        for name in ("scores.json", "bundle/bundle.json", "a.html", "bundle/card.md", "z.html"):
            (folder.path / name).write_text("1")
        folder.push()
        assert written[-2:] == ["bundle/bundle.json", "scores.json"]
        assert len(written) == 5
        written.clear()
        folder.push()
        assert written == []
        with folder.metrics.open("a") as file:
            file.write("{}\n")
        folder.push()
        assert written == ["metrics.jsonl"]
    MemoryFileSystem.store.clear()


def test_a_folder_that_is_replaced_keeps_nothing_of_what_was_there(bucket: RemotePath) -> None:
    (bucket / "run" / "bundle" / "onnx" / "old").write_text("x", "utf-8")
    with RunFolder.at(bucket / "run").checked_out() as folder:
        folder.bundle.mkdir()
        (folder.bundle / "bundle.json").write_text("{}")
        folder.push(replace=["bundle"])
    assert (bucket / "run").rglob("old") == []
    assert (bucket / "run" / "bundle" / "bundle.json").is_file()


def test_two_processes_that_write_into_one_run_do_not_undo_each_other(bucket: RemotePath) -> None:
    with open_run(bucket / "run") as driver, open_run(bucket / "run") as rank:
        driver.config.write_text("config")
        driver.push()
        rank.metrics.write_text("line 1")
        rank.push()
        driver.request_stop()
        assert rank.is_stop_requested()
        assert not rank.stop.exists()
        driver.pull()
        assert driver.metrics.read_text() == "line 1"
        rank.metrics.write_text("line 1, line 2")
        rank.push()
        driver.push()
    assert (bucket / "run" / "metrics.jsonl").read_text("utf-8") == "line 1, line 2"


def test_what_goes_wrong_speaks_of_the_url_and_not_of_the_working_copy(bucket: RemotePath) -> None:
    with pytest.raises(RunError) as caught, open_run(bucket / "run") as folder:
        raise RunError(f"{folder.path}/checkpoints: checkpoint is damaged")
    assert str(caught.value) == f"{bucket}/run/checkpoints: checkpoint is damaged"
    with open_run(bucket / "run") as folder:
        inside = working_copy_path(bucket / "run" / "checkpoints" / "c1")
        assert (
            folder.rewrite_paths(f"see {inside}: gone") == f"see {bucket}/run/checkpoints/c1: gone"
        )


def test_what_a_killed_process_left_is_deleted_by_the_next_and_what_a_living_one_has_is_not(
    bucket: RemotePath, machine: Path
) -> None:
    code = (
        "import sys, time; from mbti_ray.runs.run_folder import open_run\n"
        "with open_run(sys.argv[1]) as folder:\n"
        "    folder.metrics.write_text('{}'); print(folder.path, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "TMPDIR": str(machine / "tmp")}
    command = [sys.executable, "-c", code, str(bucket / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with open_run(bucket / "run"):
            assert (left / "metrics.jsonl").exists()
        other.kill()
    assert (left / "metrics.jsonl").exists()
    with open_run(bucket / "run"):
        assert not left.exists()
    assert files_under(machine) == set()


def _planted(folder: Path, victim: Path) -> None:
    """What another user, or a kill between two calls, may have left among working copies."""
    (folder / ("0" * 32)).symlink_to(victim)
    os.mkfifo(folder / ("1" * 32))
    (folder / ("2" * 32)).mkdir()
    (folder / ("2" * 32) / "metrics.jsonl").write_text("{}")


def test_links_and_pipes_among_working_copies_are_not_followed_and_what_a_kill_left_is_deleted(
    bucket: RemotePath, machine: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    with open_run(bucket / "run") as folder:
        copies = folder.path.parents[len(Path(bucket.path).parts) + 1]
    assert copies == machine / "tmp" / f"mbti_ray-{os.geteuid()}"
    assert copies.stat().st_mode & 0o777 == 0o700
    _planted(copies, victim)
    with open_run(bucket / "run"):
        assert not (copies / ("2" * 32)).exists()
    assert (victim / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as a second user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_a_folder_that_another_user_planted_is_refused_and_nothing_in_it_is_touched(
    bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Below pytest's own folders nobody else can make anything.
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:
        Path(shared).chmod(0o1777)
        monkeypatch.setattr("tempfile.tempdir", shared)
        _attack(Path(shared), bucket)


def _attack(shared: Path, bucket: RemotePath) -> None:
    victim = shared / "victim"
    victim.write_text("mine")
    planted = (
        f"cd {shared}; umask 0; for name in mbti_ray-{os.geteuid()} mbti_ray-{'0' * 32}; do "
        f"mkdir $name; ln -s {victim} $name/.lock; ln -s {victim} $name/.held; done; "
        f"mkdir mbti_ray-{'1' * 32}; mkfifo mbti_ray-{'1' * 32}/.held mbti_ray-{'1' * 32}/.lock"
    )
    other = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", "bash", "-ec", planted]
    subprocess.run(other, check=True)
    with pytest.raises(StorageError, match="belongs to user id 4321") as caught:
        open_run(bucket / "run").__enter__()
    assert str(caught.value).endswith("or set TMPDIR to another folder")
    assert victim.read_text() == "mine"


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
    assert newest_checkpoint(bucket) == late
    assert newest_checkpoint(bucket / "trial-2") is None


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
