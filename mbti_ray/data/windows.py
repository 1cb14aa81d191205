"""Windows: token-bounded chunks of a row's posts, the examples that the encoder reads.

One function packs posts into windows; training, evaluation and serving all call it. A `Windows`
holds the windows of one split as Arrow tables, so that Ray's object store hands them to every
worker without a copy. Knows nothing of files, splits or tokenizers.

Shapes: N windows, R rows (a row is a user or a post, as `data.unit` says).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.typology import DIMENSIONS

TokenIds = list[int]


@dataclass(frozen=True)
class EncodedRow:
    """The windows of one row, and whether something of it did not fit."""

    windows: list[TokenIds]
    truncated: bool


def split_into_windows(
    posts: Sequence[TokenIds], *, cls_id: int, sep_id: int, max_tokens: int, max_windows: int
) -> EncodedRow:
    """Pack posts in order into windows `[CLS] post [SEP] post [SEP] ...` of at most `max_tokens`.

    A post goes whole into the window at hand where it fits; one that is longer than a window is
    cut. What is left after `max_windows` windows is dropped, and said in `truncated`. A row always
    has at least one window.
    """
    room = max_tokens - 1
    windows: list[TokenIds] = []
    current: TokenIds = []
    for post in posts:
        rest = post
        while rest:
            if current and len(current) + len(rest) + 1 > room:
                windows.append([cls_id, *current])
                current = []
            piece, rest = rest[: room - 1], rest[room - 1 :]
            current += [*piece, sep_id]
    if current or not windows:
        windows.append([cls_id, *(current or [sep_id])])
    return EncodedRow(windows[:max_windows], truncated=len(windows) > max_windows)


class Windows:
    """The windows of one split.

    Attributes:
        table: Arrow table of N windows: `input_ids` list<int32>, `row` int32 (ascending).
        rows: Arrow table of R rows: `e`, `n`, `t`, `j` uint8 labels, `number` int64 (the place in
            the file), `post` int32 (the place among the posts of that line, -1 for whole users),
            `person` int32 (rows of one person have one number, in all splits), `mentioned` int8
            (the type that the row mentions most, before masking, as its place in `TYPES`, or -1),
            `text` (what the model reads, a line for each post).
    """

    def __init__(self, table: pa.Table, rows: pa.Table) -> None:
        self.table = table.combine_chunks()
        self.rows = rows.combine_chunks()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def row_count(self) -> int:
        return int(self.rows.num_rows)

    def __reduce__(self) -> tuple[type["Windows"], tuple[pa.Table, pa.Table]]:
        # The cached numpy views would travel as copies.
        return Windows, (self.table, self.rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each window in `ids`, and the end of the last: [N + 1]."""
        if not len(self):
            return np.zeros(1, np.int64)
        array: NDArray[np.int64] = self._column("input_ids").offsets.to_numpy()
        return array

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """All token ids, window after window: [total tokens]."""
        if not len(self):
            return np.zeros(0, np.int32)
        array: NDArray[np.int32] = self._column("input_ids").values.to_numpy()
        return array

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window: [N]."""
        return np.diff(self.offsets)

    @cached_property
    def row_index(self) -> NDArray[np.int32]:
        """The row that each window belongs to: [N]."""
        # A copy: torch takes no read-only array, and Arrow memory is.
        column: NDArray[np.int32] = self.table.column("row").to_numpy()
        return column.copy()

    @cached_property
    def persons(self) -> NDArray[np.int32]:
        """The number of each row's person: [R]."""
        array: NDArray[np.int32] = self.rows.column("person").to_numpy()
        return array

    @cached_property
    def mentioned(self) -> NDArray[np.int8]:
        """The type that each row mentions most before masking, as its place in `TYPES`: [R]."""
        array: NDArray[np.int8] = self.rows.column("mentioned").to_numpy()
        return array

    @property
    def texts(self) -> list[str]:
        """What the model reads of each row, a line for each post: R strings."""
        texts: list[str] = self.rows.column("text").to_pylist()
        return texts

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """0/1 labels of each row in the order E, N, T, J: [R, 4]."""
        columns = [np.asarray(self.rows.column(d.positive.lower())) for d in DIMENSIONS]
        return np.stack(columns, axis=1).astype(np.uint8)

    def _column(self, name: str) -> pa.ListArray:
        return self.table.column(name).chunk(0)


def build_windows(packed: Sequence[EncodedRow], rows: pa.Table | None = None) -> Windows:
    """`Windows` of R rows from the packed posts of each.

    Args:
        rows: What else is known of the rows, as `Windows.rows`; None for texts to predict, whose
            labels are zeros.
    """
    flat = [window for row in packed for window in row.windows]
    lengths = np.fromiter((len(w) for w in flat), np.int64, len(flat))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.fromiter((i for w in flat for i in w), np.int32, int(offsets[-1]))
    row = np.repeat(
        np.arange(len(packed), dtype=np.int32),
        np.fromiter((len(p.windows) for p in packed), np.int64, len(packed)),
    )
    table = pa.table(
        {
            "input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)),
            "row": row,
        }
    )
    if rows is None:
        none = np.zeros(len(packed), np.uint8)
        rows = pa.table({d.positive.lower(): none for d in DIMENSIONS})
    return Windows(table, rows)
