"""ONNX Runtime on a CPU: the bundle's exported graph, in float32 or with int8 weights."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.collate import Groups, pad
from mbti_ray.data.windows import TokenIds
from mbti_ray.errors import BundleError, ConfigError, one_line
from mbti_ray.inference.bundle import Bundle
from mbti_ray.inference.manifest import OnnxKind
from mbti_ray.model.classifier import pool_table
from mbti_ray.storage.checksums import find_damage

# Processors without int8 dot-product instructions (such as AVX-512 VNNI) saturate.
_TOLERANCE = {"onnx": 1e-3, "onnx-int8": 0.1}
# Measured on two cores: ONNX Runtime needs more time per token below 256 tokens per pass only.
_MIN_EFFICIENT_TOKENS = 256


class OnnxRuntime:
    """See `Runtime`."""

    def __init__(self, bundle: Bundle, kind: OnnxKind) -> None:
        if find_spec("onnxruntime") is None:
            raise ConfigError(
                f"serve.runtime={kind} needs onnxruntime; install it with "
                'pip install "mbti_ray[onnx]", or use serve.runtime=torch'
            )
        export = bundle.manifest.runtimes.get(kind)
        if export is None:
            raise BundleError(
                f"{bundle.folder}: has no export for serve.runtime={kind}; create it with "
                f"`python -m mbti_ray.export {bundle.folder}`, or use serve.runtime=torch"
            )
        self._path = bundle.folder / export.file
        damage = find_damage(bundle.folder, {export.file: export})
        if damage:
            raise BundleError(f"{bundle.folder}: {damage}; export it again")
        self.device = torch.device("cpu")
        assert bundle.tokenizer is not None
        self.pads, self._pad_id = True, bundle.tokenizer.pad_token_id
        self.min_efficient_tokens = _MIN_EFFICIENT_TOKENS
        self.output_size = 8 if bundle.manifest.model.reads_posts else 4
        self.golden: list[list[float]] = export.golden
        self.tolerance = _TOLERANCE[kind]
        # By number of threads, which a session has once and for all.
        self._sessions: dict[int, Any] = {}
        self._session()

    def _session(self) -> Any:
        """That of as many threads as torch has in this thread."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = _load_session(self._path, threads)
        return self._sessions[threads]

    def __call__(self, windows: Sequence[TokenIds]) -> Tensor:
        ids, mask = pad(windows, pad_id=self._pad_id)
        attended = np.ones(ids.shape, np.bool_) if mask is None else mask.numpy()
        inputs = {"input_ids": ids.numpy(), "attention_mask": attended}
        return torch.from_numpy(self._session().run(None, inputs)[0])

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        return pool_table(groups.table(outputs), groups.tokens)


def _load_session(path: Path, threads: int) -> Any:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads would occupy the cores that tokenize and answer requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        reason = one_line(error, limit=160)
        raise BundleError(f"{path}: is damaged ({reason}); export it again") from None
