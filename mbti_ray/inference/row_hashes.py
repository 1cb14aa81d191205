"""Hashes of the rows that a bundle was trained, validated and tested on, to recognize them later.

A row is its text as the model reads it, letters and digits only: so it is recognized in any file,
order and spelling. Its hash is the first 64 bits of SHA-256 over the bundle's id and that text. A
bundle quotes no row, but whoever has a text can check whether it was one. Must not know models.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mbti_ray.data.groups import text_key
from mbti_ray.data.split import SPLITS
from mbti_ray.errors import BundleError, one_line

ROW_HASHES = "rows.safetensors"


def load_row_hashes(folder: Path) -> dict[str, set[int]] | None:
    """The hashes in a bundle by split (train, val, test); None if an older version wrote it."""
    if not (folder / ROW_HASHES).exists():
        return None
    try:
        hashes = load_file(folder / ROW_HASHES)
        return {name: set(hashes[name].tolist()) for name in SPLITS}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder}: {ROW_HASHES} is damaged ({one_line(error)})") from None


def write_row_hashes(folder: Path, salt: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write the hashes of the rows of each split, given as one text each; sorted, so no order."""
    hashes = {
        name: np.unique(np.array([hash_row([t], salt=salt) for t in rows], np.uint64))
        for name, rows in splits.items()
    }
    save_file(hashes, folder / ROW_HASHES)


def hash_row(texts: Sequence[str], *, salt: str) -> int:
    """The hash of a row's texts, one for each post; the salt is the id of the bundle."""
    content = "\n".join([salt, text_key("\n".join(texts))])
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
