"""From a source to tokenized splits: done once for each fingerprint, then read from the cache.

Owns the cache folder `<storage>/cache/<key>/` with Arrow files and the tokenizer. Must not know of
models, ranks or Ray.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.dataset_info import DatasetInfo
from mbti_ray.data.encoder_files import TINY
from mbti_ray.data.examples import (
    Example,
    build_examples,
    count_shared,
    hash_parts,
    number_persons,
    person_kind,
    resolve_split_by,
    split_examples,
)
from mbti_ray.data.mask import MASK_VERSION
from mbti_ray.data.progress import ProgressCallback, no_progress
from mbti_ray.data.rows import BadRow
from mbti_ray.data.sources import BUILTIN, Source
from mbti_ray.data.split import SPLITS
from mbti_ray.data.text import find_words
from mbti_ray.data.tokenizer import (
    Tokenizer,
    build_tokenizer,
    encode_rows,
    load_tokenizer,
)
from mbti_ray.data.users import load_users
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.errors import DataError
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.storage.local_cache import delete_unused, mark_used
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

# Raise it when the contents of a cache folder, or how they are made, change.
_FORMAT = 5
_ROWS_AT_ONCE = 1000
# Settings of `data` that the key has in another form, or that do not change the contents.
_NOT_IN_KEY = {"source", "split_by", "max_windows", "max_posts"}
_INFO = "info.json"


@dataclass(frozen=True)
class Dataset:
    """The tokenized splits of one source under one config.

    Attributes:
        splits: `Windows` by name: train, val, test.
        tokenizer: What produced the token ids.
        key: Hash of everything that the contents depend on; name of the cache folder.
    """

    splits: dict[str, Windows]
    tokenizer: Tokenizer
    info: DatasetInfo
    key: str


def prepare_dataset(
    config: RunConfig, cache: Path, *, advance: ProgressCallback = no_progress
) -> Dataset:
    """Read, preprocess, split and tokenize `data.source`, or load it from the cache.

    Datasets that nobody has used for a month are deleted.

    Args:
        advance: Called with the number of rows tokenized since the last call, and the split.

    Raises:
        DataError: The source cannot be read or split.
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    source = load_users(config.data)
    split_by = resolve_split_by(config, source)
    encoder = config.model.needed_encoder
    pretrained = None if encoder == TINY else build_tokenizer(encoder, ())
    key = _key(config, source, split_by, pretrained)
    folder = cache / key
    if (folder / _INFO).is_file():
        mark_used(folder)
    else:
        delete_unused(cache)
        _build(config, source, split_by, pretrained, folder, advance)
    data = read_dataset(folder)
    # Another file with the same rows may have built it.
    info = replace(data.info, source=source.name, bad=source.bad, repaired=source.repaired)
    return replace(data, info=replace(info, notes=source.notes))


def read_dataset(folder: Path) -> Dataset:
    """A dataset from its cache folder; the Arrow files are memory-mapped."""
    info = json.loads((folder / _INFO).read_text("utf-8"))
    info["bad"] = [BadRow(**bad) for bad in info["bad"]]
    splits = {
        name: Windows(
            _read_arrow(folder / f"{name}.arrow"), _read_arrow(folder / f"{name}.rows.arrow")
        )
        for name in SPLITS
    }
    return Dataset(splits, load_tokenizer(folder / "tokenizer"), DatasetInfo(**info), folder.name)


def require_both_poles(data: Dataset) -> None:
    """Refuse training rows that have one pole only in a dimension: its head could not learn.

    Raises:
        DataError: Names every such dimension.
    """
    labels = data.splits["train"].labels.astype(float)
    single = [
        f"{d.name} is {d.positive if share else d.negative}"
        for d, share in zip(DIMENSIONS, labels.mean(0).tolist(), strict=True)
        if share in (0, 1)
    ]
    if single:
        raise DataError(
            f"{data.info.source}: in all {len(labels)} training rows {', '.join(single)}, and a "
            "head needs both poles to learn; add rows of the other pole, or try another seed=..., "
            "which splits differently"
        )


def _build(
    config: RunConfig,
    source: Source,
    split_by: str,
    pretrained: Tokenizer | None,
    folder: Path,
    advance: ProgressCallback,
) -> None:
    examples = build_examples(config, source.rows, split_by)
    persons = number_persons(examples)
    members = split_examples(config, examples)
    training_texts = (text for e in members["train"] for text in e.texts)
    tokenizer = pretrained or build_tokenizer(TINY, training_texts)
    encoded = {
        name: _encode(config, tokenizer, name, part, advance) for name, part in members.items()
    }
    held_out, shared = (0, 0) if config.data.trains_on_all else count_shared(members)
    info = DatasetInfo(
        source=source.name,
        fingerprint=source.fingerprint,
        split_by=split_by,
        person=person_kind(source.rows),
        rows={name: len(part) for name, part in members.items()},
        mask_version=MASK_VERSION if config.data.mask else 0,
        mask_also=list(config.data.mask_also),
        bad=source.bad,
        repaired=source.repaired,
        truncated=sum(row.truncated for part in encoded.values() for row in part),
        held_out_posts=held_out,
        shared_posts=shared,
        notes=source.notes,
        warnings=_warnings(source, held_out, shared),
    )
    # A folder that appears meanwhile was made by another process from the same data. One that was
    # there before, but has no info, is damaged.
    with atomic_folder(folder, keep_existing=not folder.exists()) as temporary:
        for name, part in members.items():
            windows = build_windows(encoded[name], _build_rows_table(part, persons))
            _write(windows.table, temporary / f"{name}.arrow")
            _write(windows.rows, temporary / f"{name}.rows.arrow")
        tokenizer.save_pretrained(temporary / "tokenizer")
        (temporary / _INFO).write_text(json.dumps(info.as_dict()), "utf-8")


def _warnings(source: Source, held_out: int, shared: int) -> list[str]:
    # Built-in users are independent draws: that they share sentences tells nothing of their type.
    if not shared or source.name == BUILTIN:
        return []
    return [
        f"{shared:,} of {held_out:,} posts in val and test are also in train (by letters and "
        "digits), in texts too common to be kept apart; scores may be too high"
    ]


def _encode(
    config: RunConfig,
    tokenizer: Tokenizer,
    name: str,
    part: Sequence[Example],
    advance: ProgressCallback,
) -> list[EncodedRow]:
    """The windows of each example of a split."""
    encoded: list[EncodedRow] = []
    for start in range(0, len(part), _ROWS_AT_ONCE):
        rows = [e.texts for e in part[start : start + _ROWS_AT_ONCE]]
        if not config.model.has_encoder:
            # Only how many words there are: their ids follow from the training rows.
            encoded += [EncodedRow([[0] * len(find_words("\n".join(r)))], False) for r in rows]
            advance(len(rows), name)
            continue
        encoded += encode_rows(
            tokenizer,
            rows,
            config.model,
            max_windows=config.max_windows,
        )
        advance(len(rows), name)
    return encoded


def _build_rows_table(part: Sequence[Example], persons: Mapping[str, int]) -> pa.Table:
    """The table `Windows.rows` for the examples of a split."""
    labels = np.array([labels_of(e.mbti_type) for e in part], np.uint8).reshape(-1, len(DIMENSIONS))
    index_of = {mbti_type: index for index, mbti_type in enumerate(TYPES)}
    return pa.table(
        {
            **{d.positive.lower(): labels[:, k] for k, d in enumerate(DIMENSIONS)},
            "number": np.array([e.number for e in part], np.int64),
            "post": np.array([e.post for e in part], np.int32),
            "person": np.array([persons[e.person] for e in part], np.int32),
            "mentioned": np.array([index_of.get(e.mentioned or "", -1) for e in part], np.int8),
            "text": pa.array(["\n".join(e.texts) for e in part], pa.large_string()),
            "shares": pa.array([e.shares for e in part], pa.list_(pa.float32(), 4)),
        }
    )


def _key(config: RunConfig, source: Source, split_by: str, tokenizer: Tokenizer | None) -> str:
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "fingerprint": source.fingerprint,
        "split_by": split_by,
        "data": config.data.model_dump(mode="json", exclude=_NOT_IN_KEY),
        "seed": config.seed,
        "reads_posts": config.model.reads_posts,
        "window_tokens": config.model.window_tokens,
        "max_windows": config.max_windows,
        "mask_version": MASK_VERSION,
        "has_encoder": config.model.has_encoder,
        # Its contents, not its name: a folder may contain another tokenizer tomorrow.
        "tokenizer": tokenizer.backend_tokenizer.to_str() if tokenizer else TINY,
    }
    return hash_parts(json.dumps(parts, sort_keys=True))


def _write(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
