"""The bundle: a self-contained folder with everything that serving needs, and proof that it works.

    model.safetensors   weights of the encoder and the heads
    config.json         the encoder's architecture, as transformers writes it
    tokenizer files     as transformers writes them
    bundle.json         the manifest: label order, pooling, limits, masking version, thresholds,
                        calibration, dataset facts, scores, versions, golden texts, file hashes
    card.md             the model card
    onnx/               graphs for ONNX Runtime, written by `python -m mbti_ray.export`

A bundle holds no pickle and needs no network. Golden logits take a forward pass, which belongs to
the predictor, and the model card belongs to `reports`; the caller passes both in as functions. Must
not know run folders, Ray or HTTP.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.tokenizer import Tokenizer, load_tokenizer
from mbti_ray.errors import BundleError, one_line
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.encoder import build_encoder, read_encoder_config
from mbti_ray.storage.atomic import write_text
from mbti_ray.typology import POSITIVE_POLES

_FORMAT = 1
_GOLDEN_TEXTS = 20


@dataclass(frozen=True)
class GoldenText:
    """A text and the logits that the bundle computed for it when it was written."""

    text: str
    logits: list[float]


@dataclass(frozen=True)
class Manifest:
    """The contents of bundle.json.

    Attributes:
        id: First 12 hex digits of a hash over weights, architecture and tokenizer.
        thresholds: Probability above which the positive pole is predicted, in the order E, N, T, J.
        temperature: Divides the logits before the sigmoid, in the order E, N, T, J.
        abstain: A probability closer to its threshold than this is answered with X.
        files: Size in bytes and SHA-256 of every other file.
        runtimes: Exports by `serve.runtime`: file, bytes, sha256, golden logits, their largest
            difference from the bundle's own, and scores compared with torch on the same rows.
    """

    id: str
    created: str
    labels: list[str]
    unit: str
    mask_version: int
    mask_also: list[str]
    max_windows: int
    model: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    config: dict[str, Any]
    golden: list[GoldenText] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=lambda: [0.5] * 4)
    temperature: list[float] = field(default_factory=lambda: [1.0] * 4)
    abstain: float = 0.0
    format: int = _FORMAT
    runtimes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked. The weights are loaded separately, by `load_model`."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig(**self.manifest.model)


@dataclass(frozen=True)
class DecisionRule:
    """How logits become letters, fitted on the validation split. Fields as in `Manifest`."""

    temperature: list[float] = field(default_factory=lambda: [1.0] * 4)
    thresholds: list[float] = field(default_factory=lambda: [0.5] * 4)
    abstain: float = 0.0


def load_bundle(folder: Path) -> Bundle:
    """A bundle from disk, without its weights; checks that every file is complete.

    Raises:
        BundleError: A file is missing, damaged or of the wrong size, or the format is unknown.
    """
    manifest = load_manifest(folder)
    for name, known in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder}: {name} is missing; copy the bundle again")
        if path.stat().st_size != known["bytes"]:
            raise BundleError(
                f"{path}: has {path.stat().st_size} bytes, bundle.json lists {known['bytes']}; "
                "copy the bundle again"
            )
    with _reported_as_damage(folder):
        return Bundle(folder, manifest, load_tokenizer(folder))


def load_model(bundle: Bundle) -> MBTIModel:
    """The model with a bundle's weights, on the CPU, in evaluation mode.

    Raises:
        BundleError: The weights are damaged.
    """
    with _reported_as_damage(bundle.folder):
        model = MBTIModel(
            build_encoder(read_encoder_config(bundle.folder)),
            pooling=bundle.model_config.pooling,
            dropout=bundle.model_config.dropout,
        )
        model.load_state_dict(load_file(bundle.folder / "model.safetensors"))
    return model.eval()


@contextmanager
def _reported_as_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder}: is damaged ({one_line(error, limit=160)}); copy the bundle again"
        ) from None


def write_runtimes(folder: Path, runtimes: Mapping[Any, dict[str, Any]]) -> None:
    """Replace the `runtimes` entry of a bundle.json."""
    manifest = load_manifest(folder)
    write_manifest(folder, replace(manifest, runtimes=dict(runtimes)))


def load_manifest(folder: Path) -> Manifest:
    """The contents of bundle.json; no other file is read.

    Raises:
        BundleError: It is missing or damaged, or of an unknown format.
    """
    path = folder / "bundle.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.get("format") != _FORMAT:
            raise BundleError(
                f"{path}: format {content.get('format')}; this version reads {_FORMAT}"
            )
        content["golden"] = [GoldenText(**g) for g in content["golden"]]
        manifest = Manifest(**content)
    except FileNotFoundError:
        raise BundleError(f"{folder}: not a bundle (it contains no bundle.json)") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"{path}: is damaged ({one_line(error, limit=160)}); copy the bundle again"
        ) from None
    if manifest.labels != list(POSITIVE_POLES):
        raise BundleError(f"{path}: labels are {manifest.labels}; allowed: {list(POSITIVE_POLES)}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    write_text(folder / "bundle.json", text + "\n")


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as listed in bundle.json."""
    return {"bytes": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
