"""Hashes of the rows that a bundle was trained, validated and tested on, to recognize them later.

A row is its text as the model reads it, letters and digits only: so it is recognized in any file,
order and spelling. Its hash is the first 64 bits of SHA-256 over the bundle's id and that text. A
bundle quotes no row, but whoever has a text can check whether it was one. Must not know models.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mbti_ray.data.examples import Example
from mbti_ray.data.groups import text_key
from mbti_ray.data.split import SPLITS

FILE_NAME = "rows.safetensors"
NEW = "new"


@dataclass(frozen=True)
class RowHashes:
    """The hashes by split (train, val, test); `salt` is the id of the bundle."""

    salt: str
    splits: Mapping[str, frozenset[int]]

    @classmethod
    def load(cls, folder: Path, salt: str) -> "RowHashes | None":
        """Those of a bundle; None if an older version wrote it."""
        if not (folder / FILE_NAME).exists():
            return None
        splits = load_file(folder / FILE_NAME)
        return cls(salt, {name: frozenset(splits[name].tolist()) for name in SPLITS})

    def split_of(self, texts: Sequence[str]) -> str:
        """The split that the row was in, train before val before test; otherwise `NEW`."""
        row = hash_row(texts, salt=self.salt)
        return next((name for name in SPLITS if row in self.splits[name]), NEW)

    def is_whole_split(self, name: str, rows: Sequence[Example]) -> bool:
        return {hash_row(row.texts, salt=self.salt) for row in rows} == self.splits[name]


def write_row_hashes(folder: Path, salt: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write the hashes of the rows of each split, given as one text each; sorted, so no order."""
    hashes = {
        name: np.unique(np.array([hash_row([t], salt=salt) for t in rows], np.uint64))
        for name, rows in splits.items()
    }
    save_file(hashes, folder / FILE_NAME)


def hash_row(texts: Sequence[str], *, salt: str) -> int:
    """The hash of a row's texts, one for each post."""
    text = "\n".join(texts)
    digest = hashlib.sha256(f"{salt}\n{text_key(text)}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
