"""Files and folders by URL, against a real S3 server and fsspec's memory."""

import pickle
from pathlib import Path

import httpx
import pytest
from buckets import files_under, remote, resolve_run_folder
from s3_server import CREDENTIALS, Server

from mbti_ray.config import load_run
from mbti_ray.errors import MbtiRayError, StorageError
from mbti_ray.runs.lookup import cache_folder
from mbti_ray.storage.local_cache import local_file, user_cache_folder
from mbti_ray.storage.remote import RemotePath, absolute_location, parse_location

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("machine")]


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
