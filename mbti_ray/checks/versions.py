"""The installed versions on each machine, and whether they are the same.

A run sends objects and code between its processes: it would fail late and misleadingly.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mbti_ray.checks.verdict import State, Verdict, group_by_value, join_names

# Their objects are sent between processes, or the processes communicate through them.
_DECISIVE = ("python", "ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "mbti_ray")
_OTHERS = ("datasets", "optuna", "pydantic", "safetensors")
_SHOWN = ("python", "ray", "torch", "transformers", "mbti_ray")
_NONE = "none"
_REMEDY = "pip install -c constraints.txt on all machines, from the same constraints.txt"


def installed_versions() -> dict[str, str]:
    """The versions of Python, the libraries and this package on this machine."""
    own = {"python": platform.python_version(), "mbti_ray": _package_version()}
    return {name: own.get(name) or _version(name) for name in (*_DECISIVE, *_OTHERS)}


def torch_cuda_version() -> str | None:
    """The CUDA version that torch is built for, without importing torch; None for a CPU build."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    found = re.search(r"^cuda\b.*= '(.+)'", text, re.MULTILINE)
    return found[1] if found else None


def judge_versions(by_machine: Mapping[str, Mapping[str, str]]) -> list[Verdict]:
    """A verdict for each difference, or one with the versions that all have."""
    here = next(iter(by_machine.values()))
    verdicts = []
    for name in here:
        # torch 2.13.0+cpu on a head and 2.13.0+cu130 on its workers are compatible.
        found = {m: v.get(name, _NONE).partition("+")[0] for m, v in by_machine.items()}
        groups = group_by_value(found)
        state = _state(name, list(groups))
        if state != "ok":
            versions = ", ".join(f"{value} on {join_names(m)}" for value, m in groups.items())
            remedy = _REMEDY if name != "mbti_ray" else "install the same code on all machines"
            verdicts.append(Verdict("versions", state, f"{name} is {versions}", remedy))
    versions = ", ".join(f"{name} {here[name]}" for name in _SHOWN)
    where = f"; the same on {join_names(by_machine)}" if len(by_machine) > 1 else ""
    return verdicts or [Verdict("versions", "ok", versions + where)]


def _state(name: str, values: list[str]) -> State:
    if len(values) == 1 and not (name in _DECISIVE and _NONE in values):
        return "ok"
    is_patch = name == "python" and len({value.rpartition(".")[0] for value in values}) == 1
    return "warning" if is_patch or name in _OTHERS else "wrong"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _NONE


@cache
def _package_version() -> str:
    """The version of this package with a hash of its files: code is sent without a new number."""
    from mbti_ray import __version__

    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:8]})"
