"""Features of a frozen encoder: extracted once for a dataset and an encoder, then read from a file.

Every trial of a study, every run of a cross-fitting and every resumed run finds what the first one
has extracted, bit for bit. The files lie in the dataset's cache folder and go with it. Must not
know of heads, epochs or scores.

Shapes: N windows, H hidden size.
"""

import hashlib
import os
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mbti_ray.data.windows import Windows
from mbti_ray.engine.out_of_memory import unless_out_of_memory
from mbti_ray.engine.validation import Evaluator
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import StorageError
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.storage.atomic import atomic_file

# Rows of features that ranks exchange at once.
_REDUCED_ROWS = 2**15


class FrozenFeatures:
    """The features of a run whose encoder is not trained, in the dataset's cache folder."""

    def __init__(self, model: MBTIModel, folder: Path, worker: Worker) -> None:
        self._model, self._folder, self._worker = model, folder, worker
        self._loaded: dict[str, Tensor] = {}

    def of(self, windows: Windows, evaluator: Evaluator) -> Tensor:
        """Features [N, H], float32, on the device or, where they do not fit, on the CPU."""
        if windows.origin is not None:
            source, places = windows.origin
            whole = self.of(source, evaluator)
            return whole[torch.from_numpy(places).to(whole.device)]
        key = self._key(windows, evaluator)
        if key not in self._loaded:
            path = self._folder / f"features-{key}.safetensors"
            features: Tensor | None = None
            with suppress(OSError, SafetensorError):
                features = load_file(path)["features"]
            # All ranks extract together, or none does: their machines may have different files.
            count = self._worker.all_reduce(torch.tensor(float(features is not None)))
            if features is None or count < self._worker.world_size:
                features = extract_features(evaluator, windows, self._worker)
                # One rank of a machine; a launcher that does not say which leaves it to each.
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    # Without room for the file, the next run extracts the features again.
                    with suppress(StorageError), atomic_file(path) as temporary:
                        save_file({"features": features.contiguous()}, temporary)
            on_device = unless_out_of_memory(partial(features.to, self._worker.device))
            self._loaded[key] = features if on_device is None else on_device
        return self._loaded[key]

    @cached_property
    def encoder_key(self) -> str:
        """A hash of the encoder's configuration and weights."""
        encoder: Any = self._model.encoder
        lines = encoder.config.to_json_string().splitlines()
        # Another version of the library is no other encoder.
        shape = [line for line in lines if "transformers_version" not in line]
        digest = hashlib.sha256("\n".join(shape).encode())
        for name, weight in encoder.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _key(self, windows: Windows, evaluator: Evaluator) -> str:
        read = self.encoder_key, self._model.pooling, evaluator.dtype, evaluator.device.type
        digest = hashlib.sha256(repr(read).encode())
        digest.update(np.ascontiguousarray(windows.offsets).data)
        digest.update(np.ascontiguousarray(windows.ids).data)
        return digest.hexdigest()[:16]


def extract_features(evaluator: Evaluator, windows: Windows, worker: Worker) -> Tensor:
    """Features [N, H] of all windows of a split, float32, the same on every rank.

    On the device, or on the CPU where they do not fit.
    """
    shape = len(windows), evaluator.model.heads.in_features
    features = unless_out_of_memory(lambda: torch.zeros(shape, device=worker.device))
    if features is None:
        features = torch.zeros(shape)
    members = np.arange(worker.rank, len(windows), worker.world_size)
    if len(members):
        mine = torch.empty(len(members), shape[1], device=features.device)
        evaluator.features(windows, members, mine)
        features[members] = mine
    # In parts, since the process group reduces tensors on the device only.
    for part in torch.split(features, _REDUCED_ROWS):
        part.copy_(worker.all_reduce(part))
    return features
