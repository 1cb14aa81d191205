"""Whether a machine can load `model.encoder`: from a folder, the hub's cache, or the hub."""

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
_FOLDER = "copy the folder to the same path on every machine, or correct model.encoder"
_TIMEOUT_S = 4.0
_TINY_BYTES = 1 << 20


def inspect_encoder(name: str) -> tuple[Verdict, int]:
    """Whether `model.encoder` can be loaded on this machine, and the bytes of its weights here.

    The bytes are 0 if they are not on this machine yet. The hub is asked only if needed.
    """
    if name == TINY:
        return Verdict(_CHECK, "ok", f"{TINY} is built on demand"), _TINY_BYTES
    try:
        folder = Path(locate_encoder(name))
    except ConfigError as error:
        message, _, remedy = str(error).partition(": pip")
        return Verdict(_CHECK, "wrong", message, f"pip{remedy}" if remedy else _FOLDER), 0
    if folder.is_dir():
        return _judge_folder(name, folder), _count_bytes(folder)
    # Imported late: only hub names need it, and it takes a third of a second.
    from transformers.utils.hub import try_to_load_from_cache

    cached = [try_to_load_from_cache(name, file) for file in (_CONFIG, *_WEIGHTS)]
    if isinstance(cached[0], str) and any(isinstance(path, str) for path in cached[1:]):
        size = _count_bytes(Path(cached[0]).parent)
        return Verdict(_CHECK, "ok", f"{name} is in the hub's cache"), size
    return _ask_hub(name), 0


def _judge_folder(name: str, folder: Path) -> Verdict:
    present = {path.name for path in folder.iterdir()}
    if present.isdisjoint(_WEIGHTS):
        message = f"{name}: {folder} contains no weights; allowed: {' or '.join(_WEIGHTS[::2])}"
        return Verdict(_CHECK, "wrong", message, "save the encoder there again")
    if present.isdisjoint(_TOKENIZERS):
        message = f"{name}: {folder} contains no tokenizer ({_TOKENIZERS[0]})"
        return Verdict(_CHECK, "wrong", message, "save its tokenizer there as well")
    return Verdict(_CHECK, "ok", f"{name} is complete")


def _ask_hub(name: str) -> Verdict:
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    hub = constants.ENDPOINT
    remedy = f"download it on each machine (`hf download {name}`) or set model.encoder to a folder"
    if constants.HF_HUB_OFFLINE:
        message = f"{name} is not in the hub's cache, and the hub is disabled (HF_HUB_OFFLINE)"
        return Verdict(_CHECK, "wrong", message, remedy)
    try:
        url = hf_hub_url(name, _CONFIG)
        status = httpx.head(url, headers=build_hf_headers(), timeout=_TIMEOUT_S).status_code
    except (httpx.HTTPError, ValueError) as error:
        message = f"{name} is not in the hub's cache, and {hub} cannot be reached"
        return Verdict(_CHECK, "wrong", f"{message} ({type(error).__name__})", remedy)
    if status < 400:
        return Verdict(_CHECK, "ok", f"{name} is not in the hub's cache; {hub} has it")
    message = f"{name} is not in the hub's cache, and {hub} answers {status}"
    if status == 404:
        message = f"{name}: {hub} has no such model"
        remedy = "correct model.encoder; allowed: a hub name, a folder, minilm, tiny"
    elif status in (401, 403):
        message = f"{name}: {hub} refuses access from this machine"
        remedy = "correct model.encoder, or set HF_TOKEN to a token with access to it"
    return Verdict(_CHECK, "wrong", message, remedy)


def _count_bytes(folder: Path) -> int:
    sizes = (sum(p.stat().st_size for p in folder.glob(f"*{s}")) for s in (".safetensors", ".bin"))
    return next(filter(None, sizes), 0)
