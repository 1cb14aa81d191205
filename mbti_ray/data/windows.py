"""Windows: chunks of a row's posts of at most so many tokens, the encoder's inputs.

Owns how posts are divided into windows (several posts together, or each apart), and `Windows`: the
windows of one split as Arrow tables, which may be those of a mapped file. Must not know of files,
splits or tokenizers.

Shapes: N windows, R rows (a row is a user or a post, depending on `data.unit`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config.schema import Truncation
from mbti_ray.typology import DIMENSIONS

TokenIds = list[int]

# Of what rows are read again, from which the temperature of short texts is learned: a third of the
# tokens of as many rows.
_SHARES = (1 / 4, 1 / 16, 1 / 64)
_MIN_TOKENS, _SHORT_ROWS = 8, 2000


@dataclass(frozen=True)
class EncodedRow:
    """The token ids of one row's windows, and whether some of its text was dropped.

    `words` are the ids of its words for the TF-IDF of a stack; `posts` is the number of its posts,
    where the windows do not tell.
    """

    windows: list[TokenIds]
    truncated: bool
    words: list[int] | None = None
    posts: int = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.windows))


def split_into_windows(
    posts: Sequence[TokenIds], *, cls_id: int, sep_id: int, max_tokens: int
) -> Iterator[TokenIds]:
    """Fill windows `[CLS] post [SEP] post [SEP] ...` of at most `max_tokens` with posts in order.

    A post that fits into the current window is not split; one that is longer than a window is.
    There is at least one window.
    """
    capacity = max_tokens - 1
    current: TokenIds = []
    for post in posts:
        start = 0
        while start < len(post):
            if current and len(current) + len(post) - start + 1 > capacity:
                yield [cls_id, *current]
                current = []
            piece = post[start : start + capacity - 1]
            current += [*piece, sep_id]
            start += len(piece)
    if current or not any(posts):
        yield [cls_id, *(current or [sep_id])]


def split_into_posts(
    posts: Sequence[TokenIds], *, cls_id: int, sep_id: int, max_tokens: int
) -> Iterator[TokenIds]:
    """A window `[CLS] post [SEP]` for each post; a longer one becomes parts of equal length.

    Posts without tokens are left out; there is at least one window.
    """
    for post in filter(None, posts) if any(posts) else [[]]:
        count = max(1, math.ceil(len(post) / (max_tokens - 2)))
        bounds = [len(post) * k // count for k in range(count + 1)]
        yield from ([cls_id, *post[start:end], sep_id] for start, end in pairwise(bounds))


def truncate(
    windows: Iterator[TokenIds], truncation: Truncation, *, max_tokens: int, max_windows: int
) -> EncodedRow:
    """A row of at most `max_windows` windows.

    head keeps the first ones, and makes no others. head_tail keeps a quarter from the beginning and
    three from the end: of the windows or, where one is read, of its tokens. Of 512 tokens these are
    [CLS], the first 128, the last 382 and [SEP] (Sun et al. 2019, "How to Fine-Tune BERT for Text
    Classification?").
    """
    if truncation == "head":
        found = list(islice(windows, max_windows + 1))
        return EncodedRow(found[:max_windows], truncated=len(found) > max_windows)
    found = list(windows)
    if len(found) <= max_windows:
        return EncodedRow(found, truncated=False)
    if max_windows > 1:
        head = max(1, max_windows // 4)
        return EncodedRow([*found[:head], *found[head - max_windows :]], truncated=True)
    head = round((max_tokens - 2) / 4)
    tokens = [token for window in found for token in window[1:]]
    kept = [found[0][0], *tokens[:head], *tokens[head + 1 - max_tokens :]]
    return EncodedRow([kept], truncated=True)


class Windows:
    """The windows of one split.

    Attributes:
        table: Arrow table of N windows: `input_ids` list<int32>, `row` int32 (ascending).
        rows: Arrow table of R rows: `e`, `n`, `t`, `j` uint8 labels, `number` int64 (`Row.number`),
            `post` int32 (index among the posts of that row, -1 for whole users), `person` int32
            (one number for each person, across splits), `mentioned` int8 (index in `TYPES` of the
            type that the row mentions most often before masking, or -1), `text` (what the model
            reads, one line for each post), `shares` (soft labels, float32[4] or null).
        origin: The windows that these were taken from, and their places there, ascending.
    """

    def __init__(self, table: pa.Table, rows: pa.Table) -> None:
        self.table = table.combine_chunks()
        self.rows = rows.combine_chunks()
        self.origin: tuple[Windows, NDArray[np.int64]] | None = None

    @classmethod
    def of(
        cls,
        ids: NDArray[np.int32] | pa.Array,
        tokens: NDArray[np.int32],
        windows: NDArray[np.int32],
        rows: pa.Table,
    ) -> "Windows":
        """From what `flatten` returns; the ids are not copied."""
        offsets = np.append(0, np.cumsum(tokens, dtype=np.int64))
        lists = pa.LargeListArray.from_arrays(offsets, ids)
        row = np.repeat(np.arange(len(windows), dtype=np.int32), windows)
        return cls(pa.table({"input_ids": lists, "row": row}), rows)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def row_count(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each window in `ids`, and the end of the last: [N + 1]."""
        if not len(self):
            return np.zeros(1, np.int64)
        return np.asarray(self._column("input_ids").offsets)

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """All token ids, window after window: [total tokens]."""
        if not len(self):
            return np.zeros(0, np.int32)
        return np.asarray(self._column("input_ids").values)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window: [N]."""
        return np.diff(self.offsets)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of each row in all its windows: [R]."""
        return np.bincount(self.row_index, self.lengths, minlength=self.row_count).astype(np.int64)

    @cached_property
    def row_index(self) -> NDArray[np.int32]:
        """Index in `rows` of the row that each window belongs to: [N]."""
        # A copy, because Arrow memory is read-only and torch does not accept read-only arrays.
        return np.array(self.table.column("row"))

    @cached_property
    def row_starts(self) -> NDArray[np.int64]:
        """The first window of each row, and the end of the last: [R + 1]."""
        return np.searchsorted(self.row_index, np.arange(self.row_count + 1))

    @cached_property
    def persons(self) -> NDArray[np.int32]:
        """The number of each row's person: [R]."""
        return np.asarray(self.rows.column("person"))

    @cached_property
    def mentioned(self) -> NDArray[np.int8]:
        """Index in `TYPES` of the type that each row mentions most before masking, or -1: [R]."""
        return np.asarray(self.rows.column("mentioned"))

    @property
    def texts(self) -> list[str]:
        """What the model reads of each row, one line for each post: R strings."""
        return list(self.rows.column("text").to_pylist())

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """0/1 labels of each row in the order E, N, T, J: [R, 4]."""
        columns = [np.asarray(self.rows.column(d.positive.lower())) for d in DIMENSIONS]
        return np.stack(columns, axis=1).astype(np.uint8)

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """Soft labels of each row, NaN where it has none: [R, 4]."""
        column = self.rows.column("shares").combine_chunks()
        found = np.full((self.row_count, len(DIMENSIONS)), np.nan, np.float32)
        found[np.asarray(column.is_valid())] = column.flatten().to_numpy().reshape(-1, 4)
        return found

    def targets(self, *, soft: bool) -> NDArray[np.float32]:
        """What a model learns of each row: its labels, or its soft labels where it has them."""
        labels = self.labels.astype(np.float32)
        return np.where(np.isnan(self.shares), labels, self.shares) if soft else labels

    def take(self, rows: NDArray[np.int64]) -> "Windows":
        """The windows of some rows, given ascending."""
        place = np.full(self.row_count, -1, np.int32)
        place[rows] = np.arange(len(rows))
        kept = np.flatnonzero(place[self.row_index] >= 0)
        table = self.table.take(pa.array(kept))
        column = pa.array(place[self.row_index[kept]])
        table = table.set_column(table.column_names.index("row"), "row", column)
        taken = Windows(table, self.rows.take(pa.array(rows)))
        taken.origin = self, kept
        return taken

    def _column(self, name: str) -> pa.ListArray:
        return self.table.column(name).chunk(0)


def shorten_rows(windows: Windows) -> Windows:
    """The beginnings of rows, each a row of its own: a quarter of a row, a 16th and a 64th of it.

    No beginning has fewer than 8 tokens; of more than 2,000 rows that many are taken, evenly
    spaced.
    """
    count, offsets = windows.row_count, windows.offsets
    taken = np.unique(np.linspace(0, count - 1, min(count, _SHORT_ROWS)).astype(np.int64))
    bounds, whole = windows.row_starts, windows.rows.column("text")
    encoded, origin, texts = [], [], []
    for row in taken.tolist():
        own = [
            windows.ids[offsets[w] : offsets[w + 1]].tolist()
            for w in range(bounds[row], bounds[row + 1])
        ]
        total = sum(map(len, own))
        for share in _SHARES:
            if total * share >= _MIN_TOKENS:
                encoded.append(EncodedRow(_first_tokens(own, int(total * share)), truncated=True))
                origin.append(row)
                texts.append(_first_words(whole[row].as_py(), share))
    rows = windows.rows.drop_columns("text").take(pa.array(origin, pa.int64()))
    return build_windows(encoded, rows.append_column("text", pa.array(texts, pa.string())))


def _first_tokens(windows: Sequence[TokenIds], count: int) -> list[TokenIds]:
    """The windows up to `count` tokens; one that is cut ends as it did, with [SEP]."""
    kept: list[TokenIds] = []
    for window in windows:
        # [CLS] and [SEP] alone say nothing.
        if count < 3:
            break
        kept.append(window if len(window) <= count else [*window[: count - 1], window[-1]])
        count -= len(window)
    return kept


def _first_words(text: str, share: float) -> str:
    """The beginning of a text, up to a space where it has one there."""
    beginning = text[: math.ceil(len(text) * share)]
    return beginning.rpartition(" ")[0] or beginning


def build_windows(encoded: Sequence[EncodedRow], rows: pa.Table) -> Windows:
    """`Windows` from the encoded rows and the table of what else is known of them (R rows each)."""
    return Windows.of(*flatten(encoded), rows)


def flatten(
    encoded: Sequence[EncodedRow],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """All token ids, window after window; the tokens of each window; the windows of each row."""
    windows = [window for row in encoded for window in row.windows]
    tokens = np.array([*map(len, windows)], np.int32)
    ids = np.fromiter(chain.from_iterable(windows), np.int32, int(tokens.sum()))
    return ids, tokens, np.array([len(row.windows) for row in encoded], np.int32)
