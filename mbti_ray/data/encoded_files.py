"""Tokenizing rows in batches, and writing their windows to Arrow files as they come.

Owns that what is written need not be in memory: ids and texts are appended to plain files, and
copied into one record batch for each split when their number is known. Must not know which rows are
in which split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.text import find_words
from mbti_ray.data.tokenizer import Tokenizer, encode_rows
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.data.word_tokenizer import WordTokenizer

_COPIED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Encoding:
    """How rows become windows, as a process has to know it.

    Attributes:
        backend: The tokenizer, as the JSON of the `tokenizers` library.
    """

    backend: str
    cls_token_id: int
    sep_token_id: int
    model: ModelConfig
    max_windows: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, model: ModelConfig, *, max_windows: int) -> "Encoding":
        backend = tokenizer.backend_tokenizer.to_str()
        ids = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        return cls(backend, *ids, model, max_windows)

    @property
    def tokenizer(self) -> WordTokenizer:
        return _load(self.backend, self.cls_token_id, self.sep_token_id)


@lru_cache(maxsize=1)
def _load(backend: str, cls_token_id: int, sep_token_id: int) -> WordTokenizer:
    return WordTokenizer(backend, cls_token_id=cls_token_id, sep_token_id=sep_token_id)


def encode_batch(rows: Sequence[Sequence[str]], encoding: Encoding) -> tuple[Windows, int]:
    """The windows of rows of prepared texts, with `text` alone in `rows`; and how many are cut."""
    model = encoding.model
    if model.has_encoder:
        encoded = encode_rows(encoding.tokenizer, rows, model, max_windows=encoding.max_windows)
    else:
        # Only how many words there are: their ids follow from the training rows.
        words = [len(find_words("\n".join(row))) for row in rows]
        encoded = [EncodedRow([[0] * count], False) for count in words]
    texts = pa.array(["\n".join(row) for row in rows], pa.large_string())
    windows = build_windows(encoded, pa.table({"text": texts}))
    return windows, sum(row.truncated for row in encoded)


def count_tokens(texts: Sequence[str], encoding: Encoding) -> NDArray[np.int64]:
    """The tokens of each text, without special tokens."""
    ids = encoding.tokenizer.tokenize(texts)
    return np.fromiter(map(len, ids), np.int64, len(ids))


class EncodedFiles:
    """The windows of R rows in a folder, appended batch after batch, then written split by split.

    Attributes:
        truncated: Rows of which some text was dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.truncated = 0
        self._paths = {"input_ids": folder / "ids", "text": folder / "texts"}
        self._files = {column: path.open("wb") for column, path in self._paths.items()}
        # Of each window its tokens, of each row its windows and the bytes of its text.
        self._tokens = [np.zeros(1, np.int64)]
        self._windows = [np.zeros(1, np.int64)]
        self._bytes = [np.zeros(1, np.int64)]

    def append(self, windows: Windows, truncated: int) -> None:
        text = windows.rows.column("text").chunk(0)
        self._files["input_ids"].write(windows.ids.data)
        self._files["text"].write(text.buffers()[2] or b"")
        self._tokens.append(windows.lengths)
        self._windows.append(np.bincount(windows.row_index, minlength=windows.row_count))
        offsets: NDArray[np.int64] = np.frombuffer(text.buffers()[1], np.int64)
        self._bytes.append(offsets[1:] - offsets[:-1])
        self.truncated += truncated

    def write(self, name: str, folder: Path, first: int, rows: dict[str, Any]) -> None:
        """The files of a split.

        Args:
            first: Its first row; the others follow.
            rows: The columns of `Windows.rows` except `text`, None in its place.
        """
        for file in self._files.values():
            file.flush()
        # Where windows start in the ids, rows in the windows, and texts in the texts.
        tokens, windows, texts = (
            np.cumsum(np.concatenate(each)) for each in (self._tokens, self._windows, self._bytes)
        )
        count = len(next(iter(rows.values())))
        own, offsets = windows[first : first + count + 1], texts[first : first + count + 1]
        places = tokens[own[0] : own[-1] + 1]
        ids = pa.LargeListArray.from_arrays(
            pa.array(places - places[0]), pa.array(np.zeros(places[-1] - places[0], np.int32))
        )
        row = np.repeat(np.arange(count, dtype=np.int32), np.diff(own))
        table = pa.table({"input_ids": ids, "row": row})
        self._write(table, folder / f"{name}.arrow", "input_ids", 4 * int(places[0]))
        text = pa.LargeStringArray.from_buffers(
            count,
            pa.py_buffer(offsets - offsets[0]),
            pa.py_buffer(np.zeros(offsets[-1] - offsets[0], np.uint8)),
        )
        table = pa.table(rows | {"text": text})
        self._write(table, folder / f"{name}.rows.arrow", "text", int(offsets[0]))

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, table: pa.Table, path: Path, column: str, start: int) -> None:
        """Write a table whose column is of zeros, then what should be in their place."""
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        mapped = pa.memory_map(str(path))
        whole = mapped.read_buffer()
        data = pa.ipc.open_file(whole).read_all().column(column).chunk(0).buffers()[-1]
        left = table.column(column).chunk(0).buffers()[-1].size
        with path.open("r+b") as target, self._paths[column].open("rb") as source:
            source.seek(start)
            target.seek(data.address - whole.address)
            while left:
                left -= target.write(source.read(min(left, _COPIED_AT_ONCE)))
