"""The installed versions on each machine, and whether they are the same.

A run sends objects and code between its processes. If their versions differ, it fails late and
with a misleading message.
"""

import hashlib
import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mbti_ray.checks.verdict import State, Verdict, group_by_value, join_names

# Their objects are sent between processes, or the processes communicate through them.
_DECISIVE = ("ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "mbti_ray")
_OTHERS = ("datasets", "optuna", "pydantic", "safetensors")
_NONE = "none"
_REMEDY = "pip install -c constraints.txt on all machines, from the same constraints.txt"


def installed_versions() -> dict[str, str]:
    """The versions of Python, the libraries and this package on this machine."""
    found = {name: _version(name) for name in (*_DECISIVE, *_OTHERS) if name != "mbti_ray"}
    return {"python": platform.python_version(), **found, "mbti_ray": _package_version()}


def torch_cuda_version() -> str | None:
    """The CUDA version that torch is built for, without importing torch; None for a CPU build."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    values: dict[str, str | None] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        values[name.partition(":")[0].strip()] = value.strip().strip("'\"")
    built_for = values.get("cuda")
    return None if built_for in (None, "None") else built_for


def judge_versions(by_machine: Mapping[str, Mapping[str, str]]) -> list[Verdict]:
    """A verdict for each difference, or one with the versions that all have."""
    machines = list(by_machine)
    here = by_machine[machines[0]]
    verdicts = []
    for name in here:
        groups = group_by_value({m: _public(by_machine[m].get(name, _NONE)) for m in machines})
        state = _state(name, list(groups))
        if state is not None:
            versions = ", ".join(f"{value} on {join_names(m)}" for value, m in groups.items())
            remedy = _REMEDY if name != "mbti_ray" else "install the same code on all machines"
            verdicts.append(Verdict("versions", state, f"{name} is {versions}", remedy))
    if not verdicts:
        shown = ("python", "ray", "torch", "transformers", "mbti_ray")
        versions = ", ".join(f"{name} {here[name]}" for name in shown)
        where = f"; the same on {join_names(machines)}" if len(machines) > 1 else ""
        verdicts.append(Verdict("versions", "ok", versions + where))
    return verdicts


def _state(name: str, values: list[str]) -> State | None:
    if name in _DECISIVE and _NONE in values:
        return "wrong"
    if len(values) == 1:
        return None
    if name == "python":
        return "warning" if len({value.rpartition(".")[0] for value in values}) == 1 else "wrong"
    return "wrong" if name in _DECISIVE else "warning"


def _public(value: str) -> str:
    # torch 2.13.0+cpu on a head and 2.13.0+cu130 on its workers are compatible.
    return value.partition("+")[0]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _NONE


@lru_cache(maxsize=1)
def _package_version() -> str:
    """The version of this package with a hash of its files: code is sent without a new number."""
    from mbti_ray import __version__

    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:8]})"
