"""Preparing a dataset on the nodes of a cluster: the same to the last byte, or one line."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.data import posts, sources
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.processes import ProcessMap
from mbti_ray.errors import ClusterError, DataError
from mbti_ray.on_ray import cluster_map
from mbti_ray.on_ray.cluster_map import ClusterMap, map_on_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_nodes_prepare_the_same_dataset_to_the_last_byte(
    quick: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BATCH_CHARS", 4000)
    monkeypatch.setattr(posts, "_POSTS_AT_ONCE", 100)
    monkeypatch.setattr(cluster_map, "_WORTH_JOINING", 5)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    path = tmp_path / "rows.csv"
    lines = [f"{('INTJ', 'ESFP', 'ENTP')[k % 3]},a post of {k}|||INTJ {k % 40}" for k in range(900)]
    path.write_text("\n".join(["type,posts", *lines, "INXJ,nobody has this type"]), "utf-8")
    config = quick(f"data.source={path}")
    nodes = ClusterMap()
    assert nodes._free_cpus() <= 2
    # What it is just after Ray's start, or beside another test's last worker, is 0.
    monkeypatch.setattr(nodes, "_free_cpus", lambda: 2)
    monkeypatch.setattr(nodes, "_processes", 1)
    mapped = []
    monkeypatch.setattr(
        cluster_map, "map_on_nodes", lambda *given: mapped.append(given) or map_on_nodes(*given)
    )
    with nodes:
        there = prepare_dataset(config, tmp_path / "there", map_batches=nodes)
    assert len(mapped) == 2
    here = prepare_dataset(config, tmp_path / "here", map_batches=ProcessMap(1))
    assert contents(there.folder) == contents(here.folder)
    assert (there.key, there.info) == (here.key, here.info)
    assert len(here.info.bad) == 1


def test_results_are_in_order_whichever_task_ends_first_and_nothing_is_read_far_ahead(
    tmp_path: Path,
) -> None:
    read = []

    def numbers() -> Iterator[int]:
        for number in range(30):
            read.append(number)
            yield number

    mark = tmp_path / "second"

    def wait_for_second(number: int) -> int:
        if number == 1:
            mark.touch()
        while number == 0 and not mark.exists():
            time.sleep(0.02)
        return number

    for expected, found in enumerate(map_on_nodes(wait_for_second, numbers(), 2)):
        assert found == expected
        assert len(read) <= expected + 10
    assert len(read) == 30


def test_a_batch_whose_process_is_killed_is_mapped_again(tmp_path: Path) -> None:
    mark = tmp_path / "was here"

    def die_once(number: int) -> int:
        if number == 2 and not mark.exists():
            mark.touch()
            os._exit(9)
        return number

    assert [*map_on_nodes(die_once, range(4), 2)] == [0, 1, 2, 3]


def test_what_a_task_refuses_is_raised_as_it_was() -> None:
    def refuse(number: int) -> int:
        raise DataError("my.csv: row 3 is bad")

    with pytest.raises(DataError) as caught:
        list(map_on_nodes(refuse, range(4), 2))
    assert str(caught.value) == "my.csv: row 3 is bad"


def test_a_batch_that_kills_every_process_is_one_line() -> None:
    def die(number: int) -> int:
        os._exit(9)

    with pytest.raises(ClusterError, match=r"^preparing the data on the cluster: .*; try again.*$"):
        list(map_on_nodes(die, range(2), 2))


def test_small_data_joins_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterMap, "_free_cpus", None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with ClusterMap() as nodes:
        assert [*nodes(str, range(9))] == [*map(str, range(9))]
