"""Export of a bundle to ONNX, in float32 and int8: graph files, and their entries in bundle.json.

A float32 graph that does not reproduce the golden logits is not kept. Must not know labeled data:
the accuracy of int8 is measured by `mbti_ray.inference.evaluation`.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbti_ray.errors import BundleError, ConfigError
from mbti_ray.inference.bundle import Bundle, load_bundle, load_model, write_runtimes
from mbti_ray.inference.manifest import OnnxKind, RuntimeExport
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import NO_GRAPH, load_runtime
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.storage.checksums import describe_file

_OPSET = 20
# The tolerance with which a float32 runtime is loaded.
_ALLOWED_GAP = 1e-3
_FOLDER = "onnx"
_FILES: dict[OnnxKind, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}

Exports = dict[OnnxKind, RuntimeExport]


def export_onnx(folder: Path) -> Exports:
    """Write the float32 and int8 graphs of a bundle; returns their entries in bundle.json.

    int8 is static quantization of matrix products (Jacob et al. 2018), with weights scaled per
    output channel, and activations by their range in the golden texts: scales taken from a batch
    would have a text's logits depend on the others of its batch.

    Raises:
        ConfigError: The packages of the extra `onnx` are not installed, or the bundle has a layer
            among posts.
        BundleError: The float32 graph does not reproduce the bundle's golden logits.
    """
    _check_installed()
    bundle = load_bundle(folder)
    if bundle.manifest.model.post_layers:
        raise ConfigError(
            f"{folder}: model.post_layers=1 has a layer behind the exported graph, which ONNX "
            "Runtime cannot run; train with model.post_layers=0, or use serve.runtime=torch"
        )
    if not bundle.manifest.model.has_encoder:
        raise ConfigError(f"{folder}: {NO_GRAPH}; it is served as it is")
    with atomic_folder(folder / _FOLDER) as staging:
        float32, int8 = (staging / name for name in _FILES.values())
        with _silenced():
            _write_graph(bundle, float32)
            _quantize(bundle, float32, int8)
        exports = _describe_exports(bundle, staging)
    write_runtimes(folder, exports)
    return exports


def _describe_exports(bundle: Bundle, folder: Path) -> Exports:
    """The bundle.json entries of the graphs in a folder, checked against the golden logits."""
    golden = [text.logits for text in bundle.manifest.golden]
    exports: Exports = {}
    for kind, name in _FILES.items():
        record = describe_file(folder / name).model_dump()
        found = RuntimeExport.model_construct(file=f"{folder.name}/{name}", golden=golden, **record)
        manifest = bundle.manifest.model_copy(update={"runtimes": {kind: found}})
        candidate = replace(bundle, manifest=manifest)
        logits = Predictor(candidate, load_runtime(candidate, kind)).golden_logits()
        gap = float((logits - torch.tensor(golden)).abs().max())
        # float32 has no golden logits of its own: it has to reproduce the bundle's.
        if kind == "onnx" and not gap <= _ALLOWED_GAP:
            raise BundleError(
                f"{bundle.folder}: the exported graph differs by {gap:.2g} on the golden texts, "
                f"allowed {_ALLOWED_GAP:g}; serve.runtime=torch still works"
            )
        exports[kind] = RuntimeExport(
            file=f"{_FOLDER}/{name}",
            golden=golden if kind == "onnx" else logits.tolist(),
            golden_gap=gap,
            **record,
        )
    return exports


def _check_installed() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise ConfigError(f'export needs {name}; install it with pip install "mbti_ray[onnx]"')


def _write_graph(bundle: Bundle, path: Path) -> None:
    # Two windows, one of them padded, so that the exporter specializes on no shape or mask.
    ids = torch.full((2, 8), 1, dtype=torch.int64)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    sizes = {0: torch.export.Dim("windows"), 1: torch.export.Dim("tokens")}
    program = torch.onnx.export(
        load_model(bundle),
        (ids, mask),
        dynamo=True,
        opset_version=_OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["outputs" if bundle.manifest.model.reads_posts else "logits"],
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    )
    assert program is not None
    program.save(str(path))


def _quantize(bundle: Bundle, float32: Path, int8: Path) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    texts = [[golden.text] for golden in bundle.manifest.golden]
    rows = Predictor(bundle, load_runtime(bundle)).encode(texts, whole=False)

    class GoldenTexts(CalibrationDataReader):  # type: ignore[misc]
        windows = iter([np.array([row.windows[0]], np.int64) for row in rows])

        def get_next(self) -> dict[str, Any] | None:
            ids = next(self.windows, None)
            return ids if ids is None else {"input_ids": ids, "attention_mask": ids >= 0}

    graph = onnx.load(str(float32), load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    # Products of activations, in the attention, stay float32: they gain nothing by int8.
    attention = [n.name for n in graph.node if n.op_type == "MatMul" and not weights & {*n.input}]
    quantize_static(
        str(float32),
        str(int8),
        GoldenTexts(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=attention,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Results stay float32.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    # The exporter prints its steps and its own deprecation warnings.
    # The loggers of torch have levels of their own.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
