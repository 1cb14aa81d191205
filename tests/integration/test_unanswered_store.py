"""A store that does not answer: its library retries for seconds before a run is refused."""

import pytest
from buckets import resolve_run_folder
from s3_server import CREDENTIALS

from mbti_ray.config import load_run
from mbti_ray.errors import StorageError
from mbti_ray.storage.remote import RemotePath

pytestmark = pytest.mark.integration


def test_a_store_that_does_not_answer_is_asked_once_and_refused_with_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    deleted: list[RemotePath] = []
    monkeypatch.setattr(RemotePath, "delete", deleted.append)
    with pytest.raises(StorageError) as caught:
        resolve_run_folder(
            load_run("quick", [f"storage={url}"]), default_name="quick", existing="refuse"
        )
    said = str(caught.value)
    assert "NETWORK_CONNECTION" in said
    assert said.endswith("check the network, and AWS_ENDPOINT_URL where it is set")
    assert caught.value.exit_code == 2
    # The lock that could not be written is not looked for, which takes as long again.
    assert deleted == []
