"""Whether a machine can load `model.encoder`: from a folder, the hub's cache, or the hub."""

import os
from dataclasses import dataclass
from pathlib import Path

import httpx

from mbti_ray.checks.verdict import Verdict
from mbti_ray.data.encoder_files import TINY, locate_encoder
from mbti_ray.errors import ConfigError

_CHECK = "encoder"
_CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_FOLDER = "copy the folder to the same path on every machine, or correct model.encoder"
_CACHE = (
    "download it on each machine (`hf download {name}`) or set model.encoder to a shared folder"
)
_TIMEOUT_S = 4.0
_FOUND = 400
_GATED = (401, 403)
_MISSING = 404
_TINY_BYTES = 1 << 20


@dataclass(frozen=True)
class EncoderReport:
    """The encoder as one machine sees it.

    Attributes:
        weights_bytes: Size of its weights; 0 if they are not on this machine yet.
    """

    verdict: Verdict
    weights_bytes: int = 0


def inspect_encoder(name: str) -> EncoderReport:
    """Whether `model.encoder` can be loaded on this machine; requests to the hub only if needed."""
    if name == TINY:
        return _ok(f"{TINY} is built on demand", _TINY_BYTES)
    try:
        place = locate_encoder(name)
    except ConfigError as error:
        message, _, remedy = str(error).partition(": pip")
        return _wrong(message, f"pip{remedy}" if remedy else _FOLDER)
    folder = Path(place)
    return _in_folder(name, folder) if folder.is_dir() else _of_the_hub(name)


def _in_folder(name: str, folder: Path) -> EncoderReport:
    weights = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        message = f"{name}: {folder} contains no weights; allowed: {' or '.join(_WEIGHTS[::2])}"
        return _wrong(message, "save the encoder there again")
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        message = f"{name}: {folder} contains no tokenizer ({_TOKENIZERS[0]})"
        return _wrong(message, "save its tokenizer there as well")
    return _ok(f"{name} is complete", _size_of(folder))


def _of_the_hub(name: str) -> EncoderReport:
    # Imported late: only hub names need it, and it takes a third of a second.
    from transformers.utils.hub import try_to_load_from_cache

    cached = [try_to_load_from_cache(name, file) for file in (_CONFIG, *_WEIGHTS)]
    if isinstance(cached[0], str) and any(isinstance(path, str) for path in cached[1:]):
        return _ok(f"{name} is in the hub's cache", _size_of(Path(cached[0]).parent))
    if any(os.environ.get(v, "0").upper() in ("1", "ON", "YES", "TRUE") for v in _OFFLINE):
        message = f"{name} is not in the hub's cache, and the hub is disabled (HF_HUB_OFFLINE)"
        return _wrong(message, _cache(name))
    return _ask_hub(name)


def _ask_hub(name: str) -> EncoderReport:
    from huggingface_hub import get_token

    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.head(
            f"{hub}/{name}/resolve/main/{_CONFIG}", headers=headers, timeout=_TIMEOUT_S
        )
    except httpx.HTTPError as error:
        message = f"{name} is not in the hub's cache, and {hub} cannot be reached"
        return _wrong(f"{message} ({type(error).__name__})", _cache(name))
    if answer.status_code < _FOUND:
        return _ok(f"{name} is not in the hub's cache; {hub} has it")
    if answer.status_code == _MISSING:
        remedy = "correct model.encoder; allowed: a hub name, a folder, minilm, tiny"
        return _wrong(f"{name}: {hub} has no such model", remedy)
    if answer.status_code in _GATED:
        remedy = "correct model.encoder, or set HF_TOKEN to a token with access to it"
        return _wrong(f"{name}: {hub} refuses access from this machine", remedy)
    message = f"{name} is not in the hub's cache, and {hub} answers {answer.status_code}"
    return _wrong(message, _cache(name))


def _cache(name: str) -> str:
    return _CACHE.format(name=name)


def _ok(message: str, weights_bytes: int = 0) -> EncoderReport:
    return EncoderReport(Verdict(_CHECK, "ok", message), weights_bytes)


def _wrong(message: str, remedy: str) -> EncoderReport:
    return EncoderReport(Verdict(_CHECK, "wrong", message, remedy))


def _size_of(folder: Path) -> int:
    for pattern in ("*.safetensors", "*.bin"):
        size = sum(path.stat().st_size for path in folder.glob(pattern))
        if size:
            return size
    return 0
