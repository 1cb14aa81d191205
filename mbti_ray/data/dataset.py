"""From a source to tokenised splits, once for each fingerprint; later runs read the result.

Owns the cache folder: `<storage>/cache/<key>/` with Arrow files and the tokenizer. Knows the
config, but nothing of models, ranks or Ray.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.encoder_files import TINY
from mbti_ray.data.mask import MASK_VERSION, mentions_in, most_mentioned
from mbti_ray.data.sources import BadRow, Row, Source, read_source
from mbti_ray.data.split import SPLITS, assign_splits
from mbti_ray.data.text import read_text
from mbti_ray.data.tokenizer import (
    Tokenizer,
    build_tokenizer,
    load_tokenizer,
    on_all_cores,
    token_ids,
)
from mbti_ray.data.windows import Packed, Windows, build_windows, pack_posts
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

# Raised when what a cache folder holds, or how it is made, changes.
_FORMAT = 3
_ROWS_AT_ONCE = 1000

Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class Example:
    """One row of the model's data: a user or a post, with its texts cleaned and masked.

    Attributes:
        group: Rows of one group never stand on both sides of the split.
        person: Who wrote it: the author where the source names one, else the user.
        mentioned: The type that the texts mention most often before masking.
    """

    texts: tuple[str, ...]
    mbti_type: str
    group: str
    person: str
    mentioned: str | None
    number: int
    post: int


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset besides its tokens; kept in the cache and in the bundle.

    Attributes:
        rows: Rows by split.
        person: What a person is: author or user.
        mask_version: 0 where nothing was masked.
    """

    source: str
    fingerprint: str
    split_by: str
    person: str
    rows: dict[str, int]
    mask_version: int
    mask_also: list[str]
    bad: list[BadRow]
    repaired: int
    truncated: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """The tokenised splits of one source under one config.

    Attributes:
        splits: `Windows` by name: train, val, test.
        tokenizer: What made the ids.
        key: Names everything that the tokens depend on.
    """

    splits: dict[str, Windows]
    tokenizer: Tokenizer
    facts: Facts
    key: str


def prepare_dataset(
    config: RunConfig, cache: Path, *, advance: Advance = lambda done, note: None
) -> Dataset:
    """Read, clean, split and tokenise `data.source`, or take it from the cache.

    Args:
        advance: Told the number of rows tokenised since the last time, and the split.

    Raises:
        DataError: The source cannot be read or split.
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    source = read_source(config.data.source, max_bad_share=config.data.max_bad_share)
    split_by = resolve_split_by(config, source)
    pretrained = None if config.model.encoder == TINY else build_tokenizer(config.model.encoder, ())
    key = _key(config, source, split_by, pretrained)
    folder = cache / key
    if not (folder / "facts.json").is_file():
        _build(config, source, split_by, pretrained, folder, advance)
    return read_dataset(folder)


def read_dataset(folder: Path) -> Dataset:
    """A dataset from its cache folder; the Arrow files are mapped, not read."""
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    facts["bad"] = [BadRow(**bad) for bad in facts["bad"]]
    splits = {
        name: Windows(_map(folder / f"{name}.arrow"), _map(folder / f"{name}.rows.arrow"))
        for name in SPLITS
    }
    return Dataset(splits, load_tokenizer(folder / "tokenizer"), Facts(**facts), folder.name)


def resolve_split_by(config: RunConfig, source: Source) -> str:
    """What `data.split_by=auto` means for this source: author, else the unit's own grouping."""
    if config.data.split_by != "auto":
        return config.data.split_by
    return person_kind(source.rows)


def examples_of(config: RunConfig, rows: Sequence[Row], split_by: str) -> list[Example]:
    """The rows of the model's data, in the order of the file."""
    examples = []
    for row in rows:
        mbti_type = row.mbti_type or ""
        user = _digest("user", mbti_type, *row.posts)
        person = f"author:{row.author}" if row.author else user
        group = person if split_by == "author" else user
        for posts, place in _units(row.posts, config.data.unit):
            texts = tuple(
                read_text(post, mask=config.data.mask, also=config.data.mask_also) for post in posts
            )
            # The same post twice must not stand on both sides of the split.
            own = _digest("post", texts[0]) if split_by == "post" else group
            mentioned = most_mentioned(mentions_in(posts))
            examples.append(Example(texts, mbti_type, own, person, mentioned, row.number, place))
    return examples


def _units(posts: tuple[str, ...], unit: str) -> list[tuple[tuple[str, ...], int]]:
    """The posts of each row that a user makes, and its place among the user's posts (-1: all)."""
    if unit == "user":
        return [(posts, -1)]
    return [((post,), place) for place, post in enumerate(posts)]


def person_kind(rows: Sequence[Row]) -> str:
    """What a person of these rows is: author where any is named, else user."""
    return "author" if any(row.author for row in rows) else "user"


def person_numbers(examples: Sequence[Example]) -> dict[str, int]:
    """A number for each person, in the order of their first row."""
    persons = dict.fromkeys(example.person for example in examples)
    return {person: number for number, person in enumerate(persons)}


def split_examples(config: RunConfig, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples by split (train, val, test), each in the order of the file.

    Raises:
        DataError: There are too few groups to split.
    """
    assigned = assign_splits(
        [e.group for e in examples],
        [e.mbti_type for e in examples],
        val_share=config.data.val_share,
        test_share=config.data.test_share,
        seed=config.seed,
    )
    return {
        name: [e for e, split in zip(examples, assigned, strict=True) if split == place]
        for place, name in enumerate(SPLITS)
    }


def pack_texts(
    tokenizer: Tokenizer, rows: Sequence[Sequence[str]], *, max_tokens: int, max_windows: int
) -> list[Packed]:
    """The windows of each row of cleaned texts: training, evaluation and serving all come here."""
    ids = iter(token_ids(tokenizer, [text for texts in rows for text in texts]))
    return [
        pack_posts(
            [next(ids) for _ in texts],
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            max_tokens=max_tokens,
            max_windows=max_windows,
        )
        for texts in rows
    ]


def _build(
    config: RunConfig,
    source: Source,
    split_by: str,
    pretrained: Tokenizer | None,
    folder: Path,
    advance: Advance,
) -> None:
    examples = examples_of(config, source.rows, split_by)
    persons = person_numbers(examples)
    members = split_examples(config, examples)
    training_texts = (text for e in members["train"] for text in e.texts)
    tokenizer = pretrained or build_tokenizer(config.model.encoder, training_texts)
    with on_all_cores():
        packed = {
            name: _packed(config, tokenizer, name, part, advance) for name, part in members.items()
        }
    facts = Facts(
        source=source.name,
        fingerprint=source.fingerprint,
        split_by=split_by,
        person=person_kind(source.rows),
        rows={name: len(part) for name, part in members.items()},
        mask_version=MASK_VERSION if config.data.mask else 0,
        mask_also=list(config.data.mask_also),
        bad=source.bad,
        repaired=source.repaired,
        truncated=sum(p.truncated for part in packed.values() for p in part),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and moved whole, so that a run that is killed here leaves no half cache.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as aside:
        for name, part in members.items():
            windows = build_windows(packed[name], _rows_table(part, persons))
            _write(windows.table, Path(aside) / f"{name}.arrow")
            _write(windows.rows, Path(aside) / f"{name}.rows.arrow")
        tokenizer.save_pretrained(Path(aside) / "tokenizer")
        (Path(aside) / "facts.json").write_text(json.dumps(facts.as_dict()), "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(aside, folder.with_suffix(".new"), dirs_exist_ok=True)
        folder.with_suffix(".new").rename(folder)


def _packed(
    config: RunConfig,
    tokenizer: Tokenizer,
    name: str,
    part: Sequence[Example],
    advance: Advance,
) -> list[Packed]:
    """The windows of each example of a split."""
    packed: list[Packed] = []
    for start in range(0, len(part), _ROWS_AT_ONCE):
        rows = [e.texts for e in part[start : start + _ROWS_AT_ONCE]]
        packed += pack_texts(
            tokenizer,
            rows,
            max_tokens=config.model.max_tokens,
            max_windows=config.data.max_windows if config.data.unit == "user" else 1,
        )
        advance(len(rows), name)
    return packed


def _rows_table(part: Sequence[Example], persons: Mapping[str, int]) -> pa.Table:
    """`Windows.rows` of the examples."""
    labels = np.array([labels_of(e.mbti_type) for e in part], np.uint8).reshape(-1, len(DIMENSIONS))
    place_of = {mbti_type: place for place, mbti_type in enumerate(TYPES)}
    return pa.table(
        {
            **{d.positive.lower(): labels[:, k] for k, d in enumerate(DIMENSIONS)},
            "number": np.array([e.number for e in part], np.int64),
            "post": np.array([e.post for e in part], np.int32),
            "person": np.array([persons[e.person] for e in part], np.int32),
            "mentioned": np.array([place_of.get(e.mentioned or "", -1) for e in part], np.int8),
            "text": pa.array(["\n".join(e.texts) for e in part], pa.large_string()),
        }
    )


def _key(config: RunConfig, source: Source, split_by: str, tokenizer: Tokenizer | None) -> str:
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "fingerprint": source.fingerprint,
        "split_by": split_by,
        "data": config.data.model_dump(mode="json", exclude={"source", "split_by"}),
        "seed": config.seed,
        "max_tokens": config.model.max_tokens,
        "mask_version": MASK_VERSION,
        # Its contents, not its name: a folder of the same name may hold another one tomorrow.
        "tokenizer": tokenizer.backend_tokenizer.to_str() if tokenizer else TINY,
    }
    return _digest(json.dumps(parts, sort_keys=True))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _write(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _map(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
