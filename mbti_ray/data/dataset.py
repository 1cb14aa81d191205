"""From a source to tokenized splits: done once for each fingerprint, then read from the cache.

Owns the cache folder `<storage>/cache/<key>/`. Must not know of models, ranks or Ray.
"""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config import RunConfig, override
from mbti_ray.data.encoded_files import EncodedBatch, encode_batch, read_splits, write_splits
from mbti_ray.data.encoder_files import TINY
from mbti_ray.data.examples import (
    Examples,
    build_examples,
    count_shared,
    encode_persons,
    split_examples,
)
from mbti_ray.data.mask import MASK_VERSION
from mbti_ray.data.posts import PostStore, hash_parts
from mbti_ray.data.processes import MapBatches, ProcessMap, ProgressCallback, no_progress
from mbti_ray.data.readers import BUILTIN
from mbti_ray.data.rows import BadRow, DatasetInfo
from mbti_ray.data.sources import content_hash
from mbti_ray.data.split import SPLITS, Indices
from mbti_ray.data.tokenizer import Tokenizer, WordTokenizer, build_tokenizer, load_tokenizer
from mbti_ray.data.users import load_users
from mbti_ray.data.windows import Windows
from mbti_ray.errors import DataError, counted
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.storage.local_cache import delete_unused, touch
from mbti_ray.typology import DIMENSIONS

# Raise it when the contents of a cache folder, or how they are made, change.
_FORMAT = 9
# What else decides how a text is read.
_LIBRARIES = ("ftfy", "tokenizers")
# Settings of `data` that the key has in another form, or that do not change the contents.
_NOT_IN_KEY = {"source", "max_windows", "max_posts"}
_INFO = "info.json"


@dataclass(frozen=True)
class Dataset:
    """The tokenized splits (train, val, test) of one source under one config.

    `folder`, in the cache, is named after the `key` and has the files of the splits.
    """

    splits: dict[str, Windows]
    tokenizer: Tokenizer
    info: DatasetInfo
    folder: Path

    @property
    def key(self) -> str:
        """Hash of everything that the contents depend on."""
        return self.folder.name


def has_dataset(folder: Path) -> bool:
    """Whether a cache folder has a whole dataset."""
    return (folder / _INFO).is_file()


def prepare_dataset(
    config: RunConfig,
    cache: Path,
    *,
    advance: ProgressCallback = no_progress,
    map_batches: MapBatches | None = None,
) -> Dataset:
    """Read, preprocess, split and tokenize `data.source`, or load it from the cache.

    A source that has been prepared is recognized by its bytes. Datasets that nobody has used for a
    month are deleted.

    Args:
        map_batches: Where batches are preprocessed and tokenized: by default on all cores. The
            dataset does not depend on it.

    Raises:
        DataError: The source cannot be read or split, or changed meanwhile.
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    encoder = config.model.needed_encoder
    pretrained = None if encoder == TINY else build_tokenizer(encoder, ())
    contents = content_hash(config.data)
    folder = cache / _key(config, contents, pretrained)
    if has_dataset(folder):
        touch(folder)
    else:
        delete_unused(cache)
        # A folder that appears meanwhile was made by another process from the same data. One that
        # was there before, but has no info, is damaged.
        whole = atomic_folder(folder, keep_existing=not folder.exists())
        try:
            with ProcessMap() as processes, whole as temporary:
                _build(config, pretrained, temporary, advance, map_batches or processes)
                if content_hash(config.data) != contents:
                    raise DataError(f"{config.data.source}: changed while it was read; try again")
        except DataError:
            # What is refused leaves no empty folder behind.
            with suppress(OSError):
                cache.rmdir()
            raise
    data = read_dataset(folder, pretrained)
    # Another file with the same bytes may have built it.
    return replace(data, info=replace(data.info, source=config.data.source))


def read_dataset(folder: Path, tokenizer: Tokenizer | None = None) -> Dataset:
    """A dataset from its cache folder, memory-mapped; with its tokenizer, where it is loaded."""
    info = json.loads((folder / _INFO).read_text("utf-8"))
    info["bad"] = [BadRow(**bad) for bad in info["bad"]]
    tokenizer = tokenizer or load_tokenizer(folder / "tokenizer")
    return Dataset(read_splits(folder, SPLITS), tokenizer, DatasetInfo(**info), folder)


def require_both_poles(data: Dataset) -> None:
    """Raise a DataError for training rows of one pole only: its head could not learn."""
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


def prepare_folds(
    config: RunConfig, cache: Path, *, map_batches: MapBatches | None = None
) -> list[Dataset]:
    """The dataset of each of `data.folds`, in order; none where a run has none to train.

    All are checked before any is trained on; raises as `prepare_dataset` and `require_both_poles`.
    """
    count = config.data.folds if config.data.trains_on_all else 0
    numbers = range(1, (count or 0) + 1)
    configs = [override(config, {"data.fold": n}) for n in numbers]
    folds = [prepare_dataset(each, cache, map_batches=map_batches) for each in configs]
    for data in folds:
        require_both_poles(data)
    return folds


def _build(
    config: RunConfig,
    pretrained: Tokenizer | None,
    folder: Path,
    advance: ProgressCallback,
    map_batches: MapBatches,
) -> None:
    source = load_users(config.data, store=PostStore(folder), map_batches=map_batches)
    examples = build_examples(config, source.rows)
    members = split_examples(config, examples)
    training_texts = examples.texts(members["train"])
    tokenizer = pretrained or build_tokenizer(TINY, training_texts)
    encode = partial(
        encode_batch,
        tokenizer=WordTokenizer.of(tokenizer),
        model=config.model,
        max_windows=config.max_windows,
    )

    def encoded() -> Iterator[EncodedBatch]:
        posts = examples.posts
        batches = posts.batches(np.concatenate([*members.values()]))
        parts = ([*posts.read("text", part)] for part in batches)
        for batch in map_batches(encode, parts):
            advance(len(batch.texts), "")
            yield batch

    persons = encode_persons(examples.persons)[examples.row]
    columns = {name: _rows_columns(examples, part, persons) for name, part in members.items()}
    truncated = write_splits(folder, encoded(), columns)
    held_out, shared = (0, 0) if config.data.trains_on_all else count_shared(examples, members)
    warnings = []
    # Built-in users are independent draws: that they share sentences tells nothing of their type.
    if shared and source.name != BUILTIN:
        warnings.append(
            f"{shared:,} of {held_out:,} posts in val and test are also in train (by letters and "
            "digits), in texts too common to be kept apart; scores may be too high"
        )
    # Split by post, every report says that these people are not new.
    if examples.split_by == "user" and not config.data.trains_on_all:
        held = np.unique(persons[np.concatenate([members["val"], members["test"]])])
        known = np.isin(held, persons[members["train"]]).sum()
        if known:
            warnings.append(
                f"{known:,} of {counted(len(held), 'author')} in val and test are also in train "
                "(data.split_by=user); scores do not show how the model does on new people"
            )
    info = DatasetInfo(
        source=source.name,
        fingerprint=source.fingerprint,
        split_by=examples.split_by,
        person=examples.rows.person_kind,
        rows={name: len(part) for name, part in members.items()},
        mask_version=MASK_VERSION if config.data.mask else 0,
        mask_also=list(config.data.mask_also),
        bad=source.bad,
        repaired=source.repaired,
        truncated=truncated,
        held_out_posts=held_out,
        shared_posts=shared,
        notes=source.notes,
        warnings=warnings,
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / _INFO).write_text(json.dumps(info.as_dict()), "utf-8")


def _rows_columns(examples: Examples, part: Indices, persons: NDArray[np.int32]) -> dict[str, Any]:
    """The columns of `Windows.rows` for the examples of a split, without their texts."""
    rows = examples.rows.take(examples.row[part])
    shares = [*map(rows.shares_of, range(len(rows)))]
    return {
        **{d.positive.lower(): rows.labels[:, k] for k, d in enumerate(DIMENSIONS)},
        "number": rows.number,
        "post": examples.post[part].astype(np.int32),
        "person": persons[part],
        "mentioned": examples.mentioned[part],
        "text": None,
        "shares": pa.array(shares, pa.list_(pa.float32(), 4)),
    }


def _key(config: RunConfig, contents: str, tokenizer: Tokenizer | None) -> str:
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "contents": contents,
        "data": config.data.model_dump(mode="json", exclude=_NOT_IN_KEY),
        "seed": config.seed,
        "reads_posts": config.model.reads_posts,
        "window_tokens": config.model.window_tokens,
        "max_windows": config.max_windows,
        "truncation": config.model.truncation,
        "has_encoder": config.model.has_encoder,
        "mask_version": MASK_VERSION,
        "unicode": unicodedata.unidata_version,
        "libraries": [version(name) for name in _LIBRARIES],
        # Its contents, not its name: a folder may contain another tokenizer tomorrow.
        "tokenizer": tokenizer.backend_tokenizer.to_str() if tokenizer else TINY,
    }
    return hash_parts(json.dumps(parts, sort_keys=True))
