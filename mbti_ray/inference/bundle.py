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
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mbti_ray import __version__
from mbti_ray.config.schema import ModelConfig, RunConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset_info import DatasetInfo
from mbti_ray.data.tokenizer import Tokenizer, load_tokenizer
from mbti_ray.errors import BundleError, one_line
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.encoder import build_encoder, read_encoder_config
from mbti_ray.storage.atomic import atomic_folder, write_text
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


ComputeGoldenLogits = Callable[[Bundle, Sequence[str]], list[list[float]]]


def write_bundle(
    folder: Path,
    *,
    config: RunConfig,
    model: MBTIModel,
    tokenizer: Tokenizer,
    info: DatasetInfo,
    scores: dict[str, Any],
    compute_golden_logits: ComputeGoldenLogits,
    decision_rule: DecisionRule | None = None,
    model_card: Callable[[Manifest], str] | None = None,
) -> Manifest:
    """Write a bundle. The folder appears complete, and replaces an existing one.

    Args:
        compute_golden_logits: Computes logits as the service will, from the bundle read back from
            disk.
        decision_rule: None means a threshold of 0.5 and no calibration.
        model_card: Renders card.md from the manifest.
    """
    with atomic_folder(folder) as staging:
        _save_weights(staging, model, tokenizer)
        files = {path.name: describe_file(path) for path in sorted(staging.iterdir())}
        manifest = Manifest(
            id=hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=list(POSITIVE_POLES),
            unit=config.data.unit,
            mask_version=info.mask_version,
            mask_also=info.mask_also,
            max_windows=config.data.max_windows,
            model=config.model.model_dump(mode="json"),
            data=info.as_dict() | {"bad": len(info.bad)},
            scores=scores,
            versions=_versions(),
            files=files,
            config=config.model_dump(mode="json", exclude={"study", "search"}),
            **vars(decision_rule or DecisionRule()),
        )
        _write_manifest(staging, manifest)
        texts = build_golden_texts()
        logits = compute_golden_logits(load_bundle(staging), texts)
        golden = [GoldenText(t, row) for t, row in zip(texts, logits, strict=True)]
        manifest = replace(manifest, golden=golden)
        _write_manifest(staging, manifest)
        if model_card is not None:
            (staging / "card.md").write_text(model_card(manifest), "utf-8")
    return manifest


def _save_weights(folder: Path, model: MBTIModel, tokenizer: Tokenizer) -> None:
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    model.encoder.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    tokenizer.save_pretrained(folder)


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
    _write_manifest(folder, replace(manifest, runtimes=dict(runtimes)))


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


def build_golden_texts() -> list[str]:
    """Texts of the kinds that the service receives; synthetic, so a bundle quotes no user."""
    posts = [post for row in builtin_rows(users=_GOLDEN_TEXTS) for post in row.posts[:1]]
    shapes = ["a", "Ünïcode 🙂 and https://example.com/x?y=1", " ".join(posts)]
    return [*shapes, *posts[: _GOLDEN_TEXTS - len(shapes)]]


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    write_text(folder / "bundle.json", text + "\n")


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as listed in bundle.json."""
    return {"bytes": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    return {
        "mbti_ray": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
