"""Writing a bundle's graph for ONNX Runtime, beside its weights and into its bundle.json.

The export reproduces the bundle's golden texts or is not written; what int8 costs is for whoever
has labelled rows (`mbti_ray.inference.evaluation`), who gives the scores in.
"""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbti_ray.errors import BundleError, ConfigError
from mbti_ray.inference.bundle import Bundle, file_facts, load_bundle, load_model, write_runtimes
from mbti_ray.inference.runtimes import RuntimeKind

_OPSET = 20
# As far as a runtime in float32 may miss the golden logits when it is loaded.
_ALLOWED_GAP = 1e-3
_FOLDER = "onnx"
_FILES: dict[RuntimeKind, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}

Exports = dict[RuntimeKind, dict[str, Any]]

# The logits [G, 4] of the golden texts as a bundle's runtime gives them.
GoldenOf = Callable[[Bundle, RuntimeKind], list[list[float]]]


class _Graph(nn.Module):
    """The model as a graph sees it: both inputs always given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, attention_mask)
        return logits


def export_onnx(folder: Path, golden_of: GoldenOf) -> Exports:
    """Write the float32 and the int8 graph of a bundle; what bundle.json now says of each.

    Source of int8: dynamic quantisation of matrix products (Bhandare et al. 2019), weights by
    output channel, activations by tensor.

    Args:
        golden_of: Computes golden logits through the predictor, as serving will.

    Raises:
        ConfigError: The packages of the extra `onnx` are not installed.
        BundleError: The graph does not give the bundle's golden logits.
    """
    _check_installed()
    bundle = load_bundle(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as aside:
        plain, small = (Path(aside) / name for name in _FILES.values())
        with _quiet():
            _write_graph(bundle, plain)
            _quantise(plain, small)
        place = folder / _FOLDER
        place.mkdir(exist_ok=True)
        for path in (plain, small):
            path.replace(place / path.name)
    made: Exports = {
        kind: {"file": f"{_FOLDER}/{name}", **file_facts(place / name), "golden": []}
        for kind, name in _FILES.items()
    }
    golden = torch.tensor([g.logits for g in bundle.manifest.golden])
    # Not in bundle.json until it is known to be right.
    there = replace(
        bundle, manifest=replace(bundle.manifest, runtimes={str(k): v for k, v in made.items()})
    )
    for kind, facts in made.items():
        facts["golden"] = golden_of(there, kind)
        facts["golden_gap"] = float((torch.tensor(facts["golden"]) - golden).abs().max())
    # float32 has no numbers of its own: it has to reproduce the bundle's.
    gap = made["onnx"]["golden_gap"]
    made["onnx"]["golden"] = golden.tolist()
    if not gap <= _ALLOWED_GAP:
        forget_runtimes(folder)
        raise BundleError(
            f"{folder}: the exported graph is off by {gap:.2g} on the golden texts, allowed "
            f"{_ALLOWED_GAP:g}; serve.runtime=torch goes on"
        )
    write_runtimes(folder, made)
    return made


def forget_runtimes(folder: Path) -> None:
    """Take a bundle's exports away."""
    write_runtimes(folder, {})
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'export needs {error.name}; install it with pip install "mbti_ray[onnx]"'
        ) from None


def _write_graph(bundle: Bundle, path: Path) -> None:
    model = load_model(bundle).eval()
    # Two windows of one length, one of them padded: nothing for the tracer to take as fixed.
    ids = torch.full((2, 8), 1, dtype=torch.int64)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    sizes = {0: torch.export.Dim("windows"), 1: torch.export.Dim("tokens")}
    program = torch.onnx.export(
        _Graph(model),
        (ids, mask),
        dynamo=True,
        opset_version=_OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    )
    assert program is not None
    program.save(str(path))


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter tells of its steps, and of its own deprecations, line by line.
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
