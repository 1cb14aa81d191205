"""The bundle: a self-contained folder with everything that serving needs, and proof that it works.

    model.safetensors   weights of the encoder and the heads
    config.json         the encoder's architecture, under a model type that transformers does not
                        know, so that it does not load a bundle as a model of its own
    tokenizer files     as transformers writes them
    tfidf.safetensors, tfidf_features.txt
                        in place of these, or together with them in a stack: TF-IDF and its words
    stack.safetensors   how much either member of a stack counts
    rows.safetensors    hashes of the rows of its splits, by which `evaluate` knows them
    bundle.json         the manifest: label order, pooling, limits, masking version, thresholds,
                        calibration, dataset facts, scores, versions, golden texts, file hashes
    card.md             the model card
    onnx/               graphs for ONNX Runtime, written by `python -m mbti_ray.export`

A bundle holds no pickle, needs no network and runs no code of its own; every file in it is listed
in bundle.json with its SHA-256. Must not know run folders, Ray or HTTP.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file
from safetensors.torch import load_file

from mbti_ray.data.split import COPY_LETTERS, SPLITS, text_key
from mbti_ray.data.tokenizer import WordTokenizer
from mbti_ray.errors import BundleError, one_line
from mbti_ray.inference.manifest import (
    Manifest,
    OnnxKind,
    RuntimeExport,
    load_manifest,
    write_manifest,
)
from mbti_ray.model.classifier import MBTIModel, add_heads
from mbti_ray.model.encoder import as_config, build_encoder, read_encoder_shape
from mbti_ray.model.packed_bert import PackedBert, is_packable, packed_state
from mbti_ray.model.stack import Stack, load_stack
from mbti_ray.model.tfidf import TfidfModel, load_tfidf
from mbti_ray.runs.lookup import require_outside_bundles
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.storage.checksums import find_damage

ROW_HASHES = "rows.safetensors"
# The splits that train a bundle, or select its weights and thresholds.
SEEN = ("train", "val")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked. The weights are loaded separately, by `load_model`."""

    folder: Path
    manifest: Manifest
    tokenizer: WordTokenizer | None
    tfidf: TfidfModel | None = None
    stack: Stack | None = None

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> "Bundle":
        """What lies in a folder, whose bundle.json may not be written yet."""
        reader = manifest.model.reader
        return cls(
            folder,
            manifest,
            WordTokenizer.load(folder) if manifest.model.has_encoder else None,
            load_tfidf(folder) if manifest.model.has_tfidf else None,
            load_stack(folder) if reader == "stack" else None,
        )


def load_bundle(folder: Path) -> Bundle:
    """A bundle from disk, without its weights; checks that all files are as bundle.json lists them.

    Raises BundleError if a file is missing, damaged or not listed, or the format is unknown.
    """
    manifest = load_manifest(folder)
    damage = find_damage(folder, manifest.files) or _find_unlisted(folder, manifest)
    if damage:
        raise BundleError(f"{folder}: {damage}; copy the bundle again")
    with _reported_as_damage(folder):
        for name in ("config.json", "tokenizer_config.json") * manifest.model.has_encoder:
            content = json.loads((folder / name).read_text("utf-8"))
            if "auto_map" in (*content, *content.get("encoder", ())):
                raise BundleError(f"{folder}: {name} asks to run code (auto_map), which is refused")
        return Bundle.read(folder, manifest)


def load_model(bundle: Bundle, *, packed: bool = False) -> MBTIModel:
    """The model with a bundle's weights, on the CPU, in evaluation mode.

    With `packed` its encoder is a `PackedBert` where that can be: it reads packed rows only.
    """
    settings = bundle.manifest.model
    with _reported_as_damage(bundle.folder):
        shape = read_encoder_shape(bundle.folder)
        tokens = settings.window_tokens
        positions = shape.get("max_position_embeddings", tokens)
        if positions < tokens:
            raise ValueError(f"max_tokens is {tokens}, the encoder has {positions}")
        state = load_file(bundle.folder / "model.safetensors")
        if packed and is_packable(shape):
            with torch.device("meta"):
                encoder = PackedBert(shape)
            model = add_heads(encoder, settings)
            model.load_state_dict(packed_state(state, shape), assign=True)
        else:
            model = add_heads(build_encoder(as_config(shape)), settings)
            model.load_state_dict(state)
    return model.eval()


def copy_bundle(folder: Path, target: Path) -> None:
    """Copy a bundle to a folder, which appears whole.

    Another bundle there is replaced; anything else is a BundleError, a bundle around it a
    ConfigError.
    """
    if target.exists() and folder.samefile(target):
        return
    require_outside_bundles(target)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        load_manifest(target)
    with atomic_folder(target) as staging:
        shutil.copytree(folder, staging, dirs_exist_ok=True)


def write_runtimes(folder: Path, runtimes: Mapping[OnnxKind, RuntimeExport]) -> None:
    """Replace the `runtimes` entry of a bundle.json."""
    manifest = load_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"runtimes": dict(runtimes)}))


def _find_unlisted(folder: Path, manifest: Manifest) -> str | None:
    """A file that bundle.json does not list; README.md is the card where a hub shows it.

    The temporary files of an export do not count, nor does what a hub adds.
    """
    listed = {"bundle.json", "card.md", "README.md", *manifest.files}
    listed |= {export.file for export in manifest.runtimes.values()}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and str(name) not in listed and not name.parts[0].startswith("."):
            return f"{name} is not listed in bundle.json"
    return None


@contextmanager
def _reported_as_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (BundleError, MemoryError):
        raise
    except Exception as error:  # tokenizers and safetensors raise classes of their own
        raise BundleError(
            f"{folder}: is damaged ({one_line(error, limit=160)}); copy the bundle again"
        ) from None


def load_row_hashes(folder: Path) -> dict[str, set[int]] | None:
    """The hashes in a bundle of rows and posts; None if an older version wrote it.

    Of the rows of each split: train, val, test; of the long posts of those that it has seen:
    train_posts, val_posts, empty if an older version wrote it.
    """
    if not (folder / ROW_HASHES).exists():
        return None
    try:
        hashes = load_arrays(folder / ROW_HASHES)
        posts = {f"{name}_posts": hashes.get(f"{name}_posts", np.empty(0)) for name in SEEN}
        rows = {name: hashes[name] for name in SPLITS}
        return {name: set(values.tolist()) for name, values in (rows | posts).items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder}: {ROW_HASHES} is damaged ({one_line(error)})") from None


def write_row_hashes(folder: Path, salt: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write what `load_row_hashes` reads, sorted; a row is given with a line for each post."""
    hashes = {}
    for name, rows in splits.items():
        posts = [row.split("\n") for row in rows]
        hashes[name] = [hash_row(own, salt=salt) for own in posts]
        if name in SEEN:
            hashes[f"{name}_posts"] = [h for own in posts for h in hash_posts(own, salt=salt)]
    arrays = {name: np.unique(np.array(values, np.uint64)) for name, values in hashes.items()}
    save_file(arrays, folder / ROW_HASHES)


def hash_row(texts: Sequence[str], *, salt: str) -> int:
    """The hash of a row's texts, one for each post; the salt is the id of the bundle.

    Of letters and digits only and of posts in any order, so that a row is recognized in any file
    and spelling: the first 64 bits of SHA-256. A bundle quotes no row, but whoever has a text can
    check whether it was one.
    """
    return _hash_keys(sorted(map(text_key, texts)), salt)


def hash_posts(texts: Sequence[str], *, salt: str) -> list[int]:
    """The hashes of those posts of a row that are long enough to be of nobody else."""
    keys = (key for key in map(text_key, texts) if len(key) >= COPY_LETTERS)
    return [_hash_keys([key], salt) for key in keys]


def hashes_of_row(texts: Sequence[str], *, salt: str) -> set[int]:
    """`hash_row`, and what it was in bundles of earlier versions: of posts in their order."""
    return {hash_row(texts, salt=salt), _hash_keys([text_key("\n".join(texts))], salt)}


def _hash_keys(keys: Sequence[str], salt: str) -> int:
    content = "\n".join([salt, *keys])
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
