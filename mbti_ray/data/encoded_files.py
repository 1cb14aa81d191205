"""Tokenizing rows in batches, and the files of their windows, which are written as they come.

Owns the files: token ids and texts of all splits one after the other, and an Arrow table for each
split with all else. Must not know which rows are in which split.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.text import find_words
from mbti_ray.data.tokenizer import WordTokenizer, encode_rows
from mbti_ray.data.windows import EncodedRow, Windows, flatten

_IDS, _TEXTS = "ids", "texts"


@dataclass(frozen=True)
class EncodedBatch:
    """Some rows as the files take them, and how many of them are `truncated`.

    `ids` are all token ids, window after window; `tokens` are counted for each window, `windows`
    for each row; `texts` are what the model reads of each row, one line for each post, in UTF-8.
    """

    ids: NDArray[np.int32]
    tokens: NDArray[np.int32]
    windows: NDArray[np.int32]
    texts: list[bytes]
    truncated: int


def encode_batch(
    rows: Sequence[Sequence[str]], tokenizer: WordTokenizer, model: ModelConfig, *, max_windows: int
) -> EncodedBatch:
    """The windows of rows of prepared texts."""
    if model.has_encoder:
        encoded = encode_rows(tokenizer, rows, model, max_windows=max_windows)
    else:
        # Only how many words there are, and ends of posts: their ids follow from the training rows.
        words = [sum(len(find_words(post)) + 1 for post in row) - 1 for row in rows]
        encoded = [EncodedRow([[0] * max(1, count)], False) for count in words]
    texts = ["\n".join(row).encode() for row in rows]
    return EncodedBatch(*flatten(encoded), texts, sum(row.truncated for row in encoded))


def count_tokens(texts: Sequence[str], tokenizer: WordTokenizer) -> NDArray[np.int32]:
    """The tokens of each text, without special tokens."""
    ids = tokenizer.tokenize(texts)
    return np.fromiter(map(len, ids), np.int32, len(ids))


def write_splits(
    folder: Path, batches: Iterable[EncodedBatch], splits: Mapping[str, dict[str, Any]]
) -> int:
    """Write the files of a dataset; returns how many rows are cut.

    The batches have the rows of all splits, one after the other, and are written as they come; the
    columns of a split are those of `Windows.rows`, with None in the place of `text`.
    """
    parts, truncated = [], 0
    with (folder / _IDS).open("wb") as ids, (folder / _TEXTS).open("wb") as texts:
        for batch in batches:
            ids.write(batch.ids.data)
            texts.writelines(batch.texts)
            parts.append((batch.tokens, batch.windows, np.array([*map(len, batch.texts)])))
            truncated += batch.truncated
    tokens, windows, sizes = map(np.concatenate, zip(*parts, strict=True))
    ends = np.append(0, np.cumsum(windows))
    first = 0
    for name, rows in splits.items():
        last = first + len(next(iter(rows.values())))
        own = ends[first : last + 1]
        of_windows = pa.LargeListArray.from_arrays(own - own[0], tokens[own[0] : own[-1]])
        table = pa.table(rows | {"text": sizes[first:last], "tokens": of_windows})
        with pa.ipc.new_file(str(folder / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
        first = last
    return truncated


def read_splits(folder: Path, names: Sequence[str]) -> dict[str, Windows]:
    """The splits that `write_splits` wrote, with their ids and texts mapped."""
    ids, texts = (pa.memory_map(str(folder / name)).read_buffer() for name in (_IDS, _TEXTS))
    splits = {}
    for name in names:
        rows = pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()
        of_windows = rows.column("tokens").combine_chunks()
        tokens = of_windows.flatten().to_numpy()
        own_ids = ids.slice(0, 4 * int(tokens.sum()))
        ends = np.append(0, np.cumsum(rows.column("text").to_numpy()))
        own_texts = texts.slice(0, int(ends[-1]))
        text = pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(ends), own_texts)
        splits[name] = Windows.of(
            pa.Array.from_buffers(pa.int32(), own_ids.size // 4, [None, own_ids]),
            tokens,
            np.diff(of_windows.offsets.to_numpy()),
            rows.set_column(rows.column_names.index("text"), "text", text).drop_columns("tokens"),
        )
        ids, texts = ids.slice(own_ids.size), texts.slice(own_texts.size)
    return splits
