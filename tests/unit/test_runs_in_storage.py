"""Runs by URL: their locks, working copies and uploads, against a real S3 server."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from buckets import config_in, files_under, resolve_run_folder
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from mbti_ray.config import load_run
from mbti_ray.errors import RunError, StorageError
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.storage.atomic import delete_leftovers
from mbti_ray.storage.remote import RemotePath
from mbti_ray.storage.working_copy import working_copy_path

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("machine")]


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
        _let_time_pass(machine)
        with open_run(bucket / "run"):
            assert (left / "metrics.jsonl").exists()
        other.kill()
    assert (left / "metrics.jsonl").exists()
    _let_time_pass(machine)
    with open_run(bucket / "run"):
        assert not left.exists()
    assert files_under(machine) == set()


def _let_time_pass(machine: Path) -> None:
    """What is a minute old and not locked is a leftover; a process looks once."""
    delete_leftovers.cache_clear()
    for path in (machine / "tmp").glob("mbti_ray-*/*"):
        os.utime(path, (0, 0), follow_symlinks=False)


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
    _let_time_pass(machine)
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
