"""ONNX Runtime on a CPU: the bundle's exported graph, in float32 or with int8 weights."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbti_ray.errors import BundleError, ConfigError, one_line
from mbti_ray.inference.bundle import Bundle

# int8 activations are scaled by the largest value in a batch, and processors without the dot
# product of bytes (AVX-512 VNNI and the like) add in another order or saturate.
_TOLERANCE = {"onnx": 1e-3, "onnx-int8": 0.1}
# Measured on two cores: below 256 tokens a pass, ONNX Runtime is slower a token; above, it is not.
_MIN_EFFICIENT_TOKENS = 256


class OnnxRuntime:
    """See `Runtime`."""

    def __init__(self, bundle: Bundle, kind: str, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                f"serve.runtime={kind} needs onnxruntime; install it with "
                'pip install "mbti_ray[onnx]", or take serve.runtime=torch'
            ) from None
        made = bundle.manifest.runtimes.get(kind)
        if made is None:
            raise BundleError(
                f"{bundle.folder}: holds no export for serve.runtime={kind}; make it with "
                f"`python -m mbti_ray.export {bundle.folder}`, or take serve.runtime=torch"
            )
        path = bundle.folder / made["file"]
        if not path.is_file() or path.stat().st_size != made["bytes"]:
            raise BundleError(f"{path}: is missing or not whole; export it again")
        self.device = torch.device("cpu")
        self.min_efficient_tokens = _MIN_EFFICIENT_TOKENS
        self.golden: list[list[float]] = made["golden"]
        self.tolerance = _TOLERANCE[kind]
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Spinning threads would take the cores that tokenise and answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base that it names
            raise BundleError(
                f"{path}: is damaged ({one_line(error, limit=160)}); export it again"
            ) from None

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        ids = input_ids.numpy()
        mask = np.ones(ids.shape, np.bool_) if attention_mask is None else attention_mask.numpy()
        given = {"input_ids": ids, "attention_mask": mask}
        return torch.from_numpy(self._session.run(None, given)[0])
