"""Files and folders appear whole, whoever else writes and whenever a process is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mbti_ray.config import load_run
from mbti_ray.errors import RunError, StorageError
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage import atomic
from mbti_ray.storage.atomic import atomic_file, atomic_folder, recover_folder, write_text

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def _fill(folder: Path, text: str) -> None:
    (folder / "part.txt").write_text(text, "utf-8")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_only_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("new", "utf-8")
        assert path.read_text("utf-8") == "old"
    assert path.read_text("utf-8") == "new"
    assert _names(tmp_path) == ["scores.json"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text("utf-8") == "old"
    assert _names(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_replaces_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda new, path: False)
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "bundle") as temporary:
            _fill(temporary, text)
    assert (tmp_path / "bundle" / "part.txt").read_text("utf-8") == "new"
    assert _names(tmp_path) == ["bundle"]


def test_a_folder_of_another_process_that_was_first_is_kept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "data", keep_existing=True) as mine:
        _fill(mine, "mine")
        with atomic_folder(tmp_path / "data", keep_existing=True) as other:
            _fill(other, "other")
    assert (tmp_path / "data" / "part.txt").read_text("utf-8") == "other"
    assert _names(tmp_path) == ["data"]


def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "bundle") as temporary:
        _fill(temporary, "weights")
        (temporary / "part.txt").chmod(0o600)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "bundle" / "part.txt").stat().st_mode & 0o777 == 0o640
    with atomic_file(tmp_path / "weights.safetensors") as temporary:
        save_file({"weight": np.zeros(1)}, temporary)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_left_is_deleted_but_nothing_in_use(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "run"
    folder.mkdir()
    long_ago = time.time() - 3600
    (folder / ".bundle.0123abcd.tmp").mkdir()
    _fill(folder / ".bundle.0123abcd.tmp", "half")
    (folder / ".link.0123abcd.tmp").symlink_to(outside)
    os.mkfifo(folder / ".fifo.0123abcd.tmp")
    os.utime(folder / ".bundle.0123abcd.tmp", (long_ago, long_ago))
    os.utime(folder / ".link.0123abcd.tmp", (long_ago, long_ago), follow_symlinks=False)
    with atomic_folder(folder / "best") as in_use:
        os.utime(in_use, (long_ago, long_ago))
        atomic.delete_leftovers.cache_clear()
        write_text(folder / "scores.json", "{}")
    assert outside.exists()
    assert [n for n in _names(folder) if not n.startswith((".link", ".fifo"))] == [
        "best",
        "scores.json",
    ]


def test_a_folder_whose_replacement_was_cut_off_is_found_again(tmp_path: Path) -> None:
    (tmp_path / ".bundle.0123abcd.old").mkdir()
    _fill(tmp_path / ".bundle.0123abcd.old", "old")
    recover_folder(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "part.txt").read_text("utf-8") == "old"


def test_a_place_that_cannot_be_written_is_one_sentence() -> None:
    with pytest.raises(StorageError, match=r"^/proc/x/scores.json: cannot be written \(") as error:
        write_text(Path("/proc/x/scores.json"), "{}")
    assert isinstance(error.value, RunError)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
@pytest.mark.parametrize("library", ["safetensors", "tokenizers", "python"])
def test_a_full_disk_is_one_sentence_whichever_library_writes(tmp_path: Path, library: str) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(StorageError, match=r"bundle: cannot be written .*No space left"):
            _write_much(tmp_path / "bundle", library)
        assert _names(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def _write_much(path: Path, library: str) -> None:
    with atomic_folder(path) as temporary:
        if library == "safetensors":
            save_file({"weight": np.zeros(100_000)}, temporary / "model.safetensors")
        elif library == "tokenizers":
            words = {f"word-{number}": number for number in range(20_000)}
            Tokenizer(WordLevel(words, unk_token="word-0")).save(str(temporary / "t.json"))
        else:
            _fill(temporary, "x" * 100_000)


def _states_after_kills(what: str, folder: Path) -> list[Any]:
    """What a reader finds after kill -9 at each step of a write, without repetitions."""
    # A process without threads, as it forks.
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    states: list[Any] = json.loads(done.stdout)
    return states


@pytest.mark.parametrize("what", ["folder", "folder without exchange"])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path, what: str) -> None:
    assert _states_after_kills(what, tmp_path) == [["old", "old"], ["new", "new"]]


def test_a_kill_at_any_step_leaves_the_old_files_of_a_run_or_the_new_ones(tmp_path: Path) -> None:
    # Of config.yaml and scores.json.
    assert _states_after_kills("run", tmp_path) == [[5, 5], [7, 5], [7, 7]]


def _kill_at_each_step(write: Callable[[], object], read: Callable[[], object]) -> list[object]:
    states: list[object] = []
    for step in range(60):
        child = os.fork()
        if child == 0:
            _die_before(step)
            write()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if (state := read()) not in states:
            states.append(state)
        if status == 0:
            return states
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError


def _die_before(step: int) -> None:
    """Before the Nth call that opens, renames, deletes or flushes, or after it has opened."""
    left = step
    opening = Path.open

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            # A file that is only opened for writing is empty already.
            result = call(*arguments, **options) if call is opening or left >= 0 else None
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for owner, names in (
        (atomic, ("_flush", "_delete", "_exchange")),
        (Path, ("open", "rename", "replace", "unlink", "rmdir")),
        (os, ("unlink", "rmdir")),
    ):
        for name in names:
            setattr(owner, name, dying(getattr(owner, name)))


def _kill_writers(what: str, path: Path) -> list[object]:
    run = RunFolder(path / "run")

    def write_folder(text: str) -> None:
        with atomic_folder(run.bundle) as temporary:
            for part in ("a", "b"):
                (temporary / part).write_text(text, "utf-8")

    def read_folder() -> object:
        recover_folder(run.bundle)
        return [(run.bundle / part).read_text("utf-8") for part in ("a", "b")]

    def write_run(seed: int) -> None:
        run.begin(load_run("quick", [f"seed={seed}"]), "resume")
        run.write_scores({"seed": seed, "more": "x" * 100_000})

    def read_run() -> object:
        scores = json.loads(run.scores.read_text("utf-8"))
        return [load_run(str(run.config)).seed, scores["seed"]]

    if what == "run":
        write_run(5)
        return _kill_at_each_step(lambda: write_run(7), read_run)
    if what == "folder without exchange":
        atomic._exchange = lambda new, path: False
    write_folder("old")
    return _kill_at_each_step(lambda: write_folder("new"), read_folder)


if __name__ == "__main__":
    print(json.dumps(_kill_writers(sys.argv[1], Path(sys.argv[2]))))
