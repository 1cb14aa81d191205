"""TF-IDF in NumPy: the runtime of a bundle without an encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbti_ray.data.collate import Groups
from mbti_ray.data.windows import TokenIds
from mbti_ray.inference.bundle import Bundle

_TOLERANCE = 1e-3


class TfidfRuntime:
    """See `Runtime`; the ids are those of words."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.tfidf is not None
        self.device = torch.device("cpu")
        self.pads = False
        self.min_efficient_tokens = 1
        self.output_size = 4
        self.golden = [g.logits for g in bundle.manifest.golden]
        self.tolerance = _TOLERANCE
        self._tfidf = bundle.tfidf

    def __call__(self, windows: Sequence[TokenIds]) -> Tensor:
        return torch.from_numpy(self._tfidf.logits(windows)).float()

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        """The outputs themselves: a row has one window."""
        return groups.table(outputs)[:, 0]
