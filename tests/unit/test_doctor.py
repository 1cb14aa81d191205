"""Each check of the doctor on real folders, sockets and processes, and the remedy it names."""

import sys
from pathlib import Path

import pytest

from mbti_ray.checks.disk import (
    Disk,
    estimate_disk_need,
    judge_ray_disk,
    judge_storage_disk,
    measure_disk,
)
from mbti_ray.checks.storage import StorageMarkers, judge_storage
from mbti_ray.checks.token import Token, find_token, judge_refused_token, judge_token, judge_tokens
from mbti_ray.checks.verdict import Verdict, join_names, merge_verdicts
from mbti_ray.checks.versions import installed_versions, judge_versions, torch_cuda_version
from mbti_ray.config import load_run, load_study
from mbti_ray.storage.remote import parse_location

pytestmark = pytest.mark.unit

# --- verdicts ---------------------------------------------------------------------------------


def test_machines_that_found_the_same_share_a_line_and_are_named():
    bad, good = Verdict("disk", "wrong", "full", "make room"), Verdict("disk", "ok", "room")
    lines = [v.line() for v in merge_verdicts({"a": good, "b": bad, "c": good})]
    assert lines == ["disk: room (a, c)", "disk: full (b); make room"]
    assert merge_verdicts({"a": good}) == [good]


def test_of_many_machines_only_the_first_are_named():
    assert join_names(f"10.0.0.{n}" for n in range(7)) == (
        "10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 3 more"
    )


# --- versions ---------------------------------------------------------------------------------


def test_what_is_installed_here_is_found_and_agrees_with_itself():
    found = installed_versions()
    import ray
    import torch

    assert found["ray"] == ray.__version__
    assert found["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert torch_cuda_version() == torch.version.cuda
    (verdict,) = judge_versions({"10.0.0.1": found, "10.0.0.2": dict(found)})
    assert verdict.state == "ok"
    assert verdict.message.endswith("; the same on 10.0.0.1, 10.0.0.2")


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"ray": "2.59.0"}, "wrong"),
        ({"torch": "2.12.0"}, "wrong"),
        ({"torch": "none"}, "wrong"),
        ({"python": "3.12.1"}, "wrong"),
        ({"mbti_ray": "0.1.0 (00000000)"}, "wrong"),
        ({"optuna": "4.9.0"}, "warning"),
    ],
    ids=str,
)
def test_another_version_on_a_node_is_named_with_the_node(changed, state):
    here = installed_versions()
    (verdict,) = judge_versions({"10.0.0.1": here, "10.0.0.2": here | changed})
    ((name, version),) = changed.items()
    assert verdict.state == state
    assert verdict.message == f"{name} is {_public(here[name])} on 10.0.0.1, {version} on 10.0.0.2"
    assert verdict.remedy


def _public(version: str) -> str:
    return version.partition("+")[0]


def test_torch_for_cpus_on_the_head_and_for_gpus_on_workers_go_together():
    here = installed_versions() | {"torch": "2.13.0+cpu"}
    (verdict,) = judge_versions({"head": here, "worker": here | {"torch": "2.13.0+cu130"}})
    assert verdict.state == "ok"


def test_a_patch_release_of_python_is_a_warning():
    here = installed_versions() | {"python": "3.11.7"}
    (verdict,) = judge_versions({"head": here, "worker": here | {"python": "3.11.9"}})
    assert verdict.state == "warning"


# --- token ------------------------------------------------------------------------------------


def test_a_token_is_looked_for_where_ray_looks_and_never_kept(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("s3cret\n")
    other = tmp_path / "other"
    other.write_text("s3cret")
    at_home = find_token({}, tmp_path)
    by_path = find_token({"RAY_AUTH_TOKEN_PATH": str(other)}, tmp_path)
    given = find_token({"RAY_AUTH_TOKEN": "another", "RAY_AUTH_TOKEN_PATH": "x"}, tmp_path)
    assert at_home.digest == by_path.digest != given.digest
    assert (by_path.path, given.path) == (str(other), "RAY_AUTH_TOKEN")
    assert "s3cret" not in f"{at_home}{by_path}"


def test_token_mode_without_a_token_is_wrong_where_a_cluster_is_joined(tmp_path):
    token = find_token({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert judge_token(token, joins=False).state == "ok"
    verdict = judge_token(token, joins=True)
    assert verdict.state == "wrong"
    assert f"{tmp_path}/.ray/auth_token has no token" in verdict.message
    assert "copy the head's ~/.ray/auth_token to this machine" in verdict.remedy


def test_a_path_of_a_token_that_leads_nowhere_is_wrong(tmp_path):
    token = find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
    assert judge_token(token, joins=False).state == "wrong"


def test_a_token_without_its_mode_is_said_to_be_shown_by_no_worker(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("s3cret")
    (tmp_path / ".ray" / "auth_token").chmod(0o600)
    verdict = judge_token(find_token({}, tmp_path), joins=False)
    assert verdict.state == "ok"
    assert "only with RAY_AUTH_MODE=token" in verdict.message


@pytest.mark.parametrize(("mode", "state"), [(0o644, "warning"), (0o640, "warning"), (0o600, "ok")])
def test_a_token_that_other_users_can_read_is_a_warning_with_the_command_that_fixes_it(
    tmp_path, mode, state
):
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("s3cret")
    file.chmod(mode)
    token = find_token({"RAY_AUTH_MODE": "token"}, tmp_path)
    for verdict in (
        judge_token(token, joins=True),
        *judge_tokens({"a": token}, is_required=True),
    ):
        assert verdict.state == state
        assert verdict.remedy == (f"chmod 600 {file}" if state == "warning" else "")


def test_nodes_whose_token_is_another_are_named():
    same, odd = Token("token", "p", "11111111"), Token("token", "p", "22222222")
    (verdict,) = judge_tokens({"a": same, "b": odd, "c": same}, is_required=True)
    assert verdict.state == "warning"
    assert verdict.message.startswith("b would present a different token, or none")
    (verdict,) = judge_tokens({"a": same, "c": same}, is_required=True)
    assert verdict.line() == "token: required, the same on 2 nodes"


def test_several_nodes_without_a_token_are_a_warning_and_one_is_none():
    none = Token(None, "p", None)
    assert judge_tokens({"a": none}, is_required=False)[0].state == "ok"
    (verdict,) = judge_tokens({"a": none, "b": none}, is_required=False)
    assert verdict.state == "warning"
    assert "ray get-auth-token --generate" in verdict.remedy


def test_a_machine_that_is_not_let_in_is_told_which_token_it_showed():
    verdict = judge_refused_token(Token(None, "/h/.ray/auth_token", None), "10.0.0.1:6379")
    assert verdict.state == "wrong"
    assert "which presented no token (none in /h/.ray/auth_token)" in verdict.message
    assert "RAY_AUTH_MODE=token" in verdict.remedy


# --- storage ----------------------------------------------------------------------------------


def test_a_folder_that_all_see_is_written_and_read_back_and_left_as_it_was(tmp_path):
    storage = tmp_path / "new" / "runs"
    with StorageMarkers(storage) as markers:
        seen = {name: _on_a_node(markers).exchange(name) for name in ("a", "b")}
        (verdict,) = judge_storage(markers, seen)
    assert verdict.line() == f"storage: {storage} is writable by 2 nodes and read back"
    assert list(tmp_path.iterdir()) == []


def _on_a_node(markers: StorageMarkers, storage: Path | None = None) -> StorageMarkers:
    """As the notes arrive there; `storage` is what that machine has under the name."""
    return StorageMarkers(storage or markers.storage, markers.name, patience_s=0.0)


def test_a_folder_that_was_there_stays_with_what_is_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    with StorageMarkers(tmp_path) as markers:
        assert markers.problem is None
        assert len(list(tmp_path.iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_only_the_driver_sees_is_named_with_the_machines(tmp_path):
    with StorageMarkers(tmp_path / "runs") as markers:
        seen = {
            "a": markers.exchange("a"),
            "b": _on_a_node(markers, tmp_path / "none").exchange("b"),
        }
        (verdict,) = judge_storage(markers, seen)
    assert verdict.state == "wrong"
    assert verdict.message.startswith(f"{tmp_path}/runs does not exist on b: ")
    assert verdict.remedy.startswith("mount the same folder at ")
    assert not (tmp_path / "none").exists()


def test_another_disk_under_the_same_name_is_found_out(tmp_path):
    (tmp_path / "local").mkdir()
    with StorageMarkers(tmp_path / "runs") as markers:
        seen = {"b": _on_a_node(markers, tmp_path / "local").exchange("b")}
        (verdict,) = judge_storage(markers, seen)
    assert verdict.state == "wrong"
    assert "is another folder on b than here" in verdict.message
    assert list((tmp_path / "local").iterdir()) == []


def test_a_note_that_does_not_come_back_is_wrong(tmp_path):
    with StorageMarkers(tmp_path, patience_s=0.1) as markers:
        (verdict,) = judge_storage(markers, {"b": None})
    assert verdict.state == "wrong"
    assert "does not show files here that were written on b" in verdict.message


def test_a_machine_that_nothing_will_run_on_is_only_a_warning(tmp_path):
    with StorageMarkers(tmp_path) as markers:
        seen = {"b": "does not exist on {}"}
        (verdict,) = judge_storage(markers, seen, idle=frozenset({"b"}))
    assert verdict.state == "warning"


def test_a_place_that_cannot_be_written_to_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    with StorageMarkers(tmp_path / "file" / "runs") as markers:
        (verdict,) = judge_storage(markers, {})
        assert judge_storage(markers, {"a": markers.exchange("a")}) == [verdict]
    assert verdict.state == "wrong"
    assert "cannot be written to here (Not a directory)" in verdict.message
    assert "storage=" in verdict.remedy


def test_a_store_by_url_is_written_and_read_back_and_left_as_it_was():
    from fsspec.implementations.memory import MemoryFileSystem

    with StorageMarkers(parse_location("fsspec+memory://bucket/runs")) as markers:
        (verdict,) = judge_storage(markers, {"a": _on_a_node(markers).exchange("a")})
    assert verdict.state == "ok", verdict.line()
    assert [p for p in MemoryFileSystem.store if "doctor" in p] == []


# --- disk -------------------------------------------------------------------------------------


def test_room_is_measured_where_the_folder_would_be(tmp_path):
    disk = measure_disk(tmp_path / "a" / "b")
    assert disk.total_bytes == measure_disk(tmp_path).total_bytes
    assert 0 < disk.free_bytes <= disk.total_bytes


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [(4, 100, "wrong"), (4, 20, "warning"), (50, 100, "ok"), (200, 10_000, "wrong")],
)
def test_a_disk_on_which_ray_stops_storing_is_wrong(free, total, state):
    gib = 1 << 30
    verdict = judge_ray_disk(Disk("/tmp/ray", free * gib, total * gib))
    assert verdict.state == state
    assert bool(verdict.remedy) == (state != "ok")


@pytest.mark.parametrize(("free", "state"), [(5, "wrong"), (50, "warning"), (500, "ok")])
def test_storage_has_to_hold_a_checkpoint_and_should_hold_all_that_is_kept(free, state):
    verdict = judge_storage_disk(Disk("/runs", free, 1000), (10, 100))
    assert verdict.state == state


def test_a_study_needs_room_for_the_checkpoint_of_each_trial():
    run, study = load_run("quick"), load_study(None, ["study.trials=50"])
    assert estimate_disk_need(run, 100) == (500, 1300)
    assert estimate_disk_need(study, 100) == (500, 100 + 51 * 400)
    heads = load_run("quick", ["model.trainable=heads"])
    assert estimate_disk_need(heads, 100) < estimate_disk_need(run, 100)
