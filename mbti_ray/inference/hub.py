"""Bundles on the Hugging Face Hub: downloading one by its id, uploading one, their card there."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mbti_ray.errors import RunError, one_line
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.runs.lookup import fetch_bundle

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")


def fetch_pretrained(place: str | Path, *, revision: str | None = None) -> Path:
    """The folder on this machine of a bundle, given by path, URL, or id on the hub.

    What could be an id is one where neither it nor its first part is a local folder; `revision` is
    then a branch, tag or commit. Raises RunError if there is no bundle.
    """
    text = str(place)
    is_local = Path(text).exists() or Path(text).parent.is_dir()
    if is_local or not _HUB_ID.fullmatch(text):
        return fetch_bundle(place)
    from huggingface_hub import snapshot_download

    with _hub_errors(f"{text}: no such folder, and the hub does not give a model of this name"):
        folder = snapshot_download(text, revision=revision)
    return fetch_bundle(Path(folder))


def push_bundle(
    folder: Path, repo_id: str, *, private: bool | None = None, **card: str | None
) -> str:
    """Upload a bundle as a repository on the hub, created if need be; returns its URL.

    `private` None means what the account or organization has set for new ones; `card` has license
    and language, as `hub_card` takes them. Raises RunError if the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with TemporaryDirectory() as temporary:
        copy = shutil.copytree(folder, Path(temporary) / "bundle")
        write_card(copy, folder, library="mbti_ray", **card)
        with _hub_errors(f"{repo_id}: the hub did not take the bundle"):
            url = hub.create_repo(repo_id, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=url.repo_id, folder_path=copy, commit_message="Upload a bundle of mbti_ray"
            )
    return str(url)


@contextmanager
def _hub_errors(sentence: str) -> Iterator[None]:
    try:
        yield
    # The hub's HTTP library has errors of its own, and is not always the same.
    except Exception as error:
        raise RunError(f"{sentence} ({one_line(error, limit=200)})") from error


def write_card(folder: Path, bundle: Path, **options: Any) -> None:
    """Write README.md, the card of a bundle as `hub_card` has it, into a folder."""
    from mbti_ray.reports.model_card import hub_card

    manifest = load_manifest(bundle).model_dump(mode="json")
    card = bundle / "card.md"
    title = f"# Four letters from text: bundle {manifest['id']}\n\nIt was not scored.\n"
    text = card.read_text("utf-8") if card.exists() else title
    (folder / "README.md").write_text(hub_card(text, manifest, **options), "utf-8")
