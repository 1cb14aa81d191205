"""Text in, prediction out: the one path of `predict`, `evaluate`, the service and `MBTIClassifier`.

It cleans, masks, tokenises, packs and pools with the functions that training used. Knows nothing
of Ray, HTTP or files of data.

Shapes: R inputs, N windows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mbti_ray.bundle import Bundle, read_bundle
from mbti_ray.data.batches import WORTH_TOKENS, batches_by_length, collate
from mbti_ray.data.mask import MASK_VERSION, find_hidden
from mbti_ray.data.prepare import pack_texts
from mbti_ray.data.text import clean_text, read_text
from mbti_ray.data.windows import build_windows
from mbti_ray.errors import BundleError
from mbti_ray.runs import find_bundle
from mbti_ray.scores.counts import pool_rows
from mbti_ray.typology import POSITIVE_POLES, type_of

# Golden logits made on another processor differ in the last digits of float32, not in these.
_GOLDEN_TOLERANCE = 1e-3
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input.

    Attributes:
        mbti_type: Four letters; X where the bundle abstains.
        probabilities: Of the positive poles E, N, T, J.
        truncated: Some of the input was not read, because it is longer than the limits.
        windows: How many windows were read.
    """

    mbti_type: str
    probabilities: tuple[float, float, float, float]
    truncated: bool
    windows: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "type": self.mbti_type,
            "probabilities": dict(zip(POSITIVE_POLES, self.probabilities, strict=True)),
            "truncated": self.truncated,
            "windows": self.windows,
        }


@dataclass(frozen=True)
class Logits:
    """Row logits [R, 4], uncalibrated, with what became of each input."""

    values: Tensor
    truncated: list[bool]
    windows: list[int]


class Predictor:
    """A bundle, loaded and checked, on a device."""

    def __init__(self, bundle: Bundle, *, device: str | torch.device = "cpu") -> None:
        self._manifest = bundle.manifest
        self._model = bundle.model.to(device).eval()
        self._tokenizer = bundle.tokenizer
        self._device = torch.device(device)
        self._temperature = torch.tensor(self._manifest.temperature)
        self.thresholds = torch.tensor(self._manifest.thresholds)
        self.abstain = self._manifest.abstain
        self.unit = self._manifest.unit
        self.max_tokens: int = bundle.model_config.max_tokens
        if self._manifest.mask_version not in (0, MASK_VERSION):
            raise BundleError(
                f"bundle {self.bundle_id}: masked with version {self._manifest.mask_version}, "
                f"this program masks with {MASK_VERSION}; train again or use mbti_ray "
                f"{self._manifest.versions['mbti_ray']}"
            )

    @classmethod
    def load(cls, folder: Path, *, device: str | torch.device = "cpu") -> "Predictor":
        """Load a bundle and check that it reproduces its golden logits here.

        Raises:
            BundleError: It is damaged, or computes something else than when it was made.
        """
        predictor = cls(read_bundle(folder), device=device)
        predictor.check_golden()
        return predictor

    @property
    def bundle_id(self) -> str:
        return self._manifest.id

    @property
    def info(self) -> dict[str, Any]:
        """What the bundle says of itself, without weights, golden texts and file hashes."""
        hidden = ("golden", "files", "config")
        return {k: v for k, v in vars(self._manifest).items() if k not in hidden}

    def check_golden(self) -> None:
        """Raise BundleError unless the golden texts give the logits that the bundle recorded."""
        golden = self._manifest.golden
        if not golden:
            raise BundleError(f"bundle {self.bundle_id}: holds no golden texts; make it again")
        logits = self.logits([[g.text] for g in golden], whole=False).values.cpu()
        gap = float((logits - torch.tensor([g.logits for g in golden])).abs().max())
        if not gap <= _GOLDEN_TOLERANCE:
            raise BundleError(
                f"bundle {self.bundle_id}: does not reproduce its golden logits (off by {gap:.2g}, "
                f"allowed {_GOLDEN_TOLERANCE:g}); it is damaged, or the versions differ too much"
            )

    def predict(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[Prediction]:
        """Predictions for R inputs, each a list of posts.

        Args:
            whole: Read each input in as many windows as the bundle allows; otherwise one window,
                which a longer text overruns (`truncated`).
        """
        logits = self.logits(users, whole=whole)
        probabilities = torch.sigmoid(self.calibrated(logits.values))
        types = self.types(probabilities)
        return [
            Prediction(types[i], tuple(p), logits.truncated[i], logits.windows[i])
            for i, p in enumerate(probabilities.tolist())
        ]

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits [R, 4] divided by the bundle's temperatures, on the CPU."""
        return logits.cpu() / self._temperature

    def types(self, probabilities: Tensor) -> list[str]:
        """The type of each row of calibrated probabilities [R, 4]; X where the bundle abstains."""
        unsure = (probabilities - self.thresholds).abs() < self.abstain
        poles = (probabilities > self.thresholds).tolist()
        return [
            "".join("X" if x else letter for letter, x in zip(type_of(row), xs, strict=True))
            for row, xs in zip(poles, unsure.tolist(), strict=True)
        ]

    def logits(self, users: Sequence[Sequence[str]], *, whole: bool) -> Logits:
        """Row logits [R, 4] of raw texts before calibration, float32, on the device."""
        return self.row_logits([[self.read(p) for p in posts] for posts in users], whole=whole)

    def read(self, post: str, *, mask: bool = True) -> str:
        """What the model reads of a post; with ``mask=False`` as if nothing had been hidden."""
        hides = mask and self._manifest.mask_version > 0
        return read_text(post, mask=hides, also=self._manifest.mask_also)

    def reading(self, post: str) -> dict[str, Any]:
        """A post in clean Unicode, and which of its characters are hidden from the model."""
        text = clean_text(post)
        hides = self._manifest.mask_version > 0
        hidden = find_hidden(text, self._manifest.mask_also) if hides else []
        return {"text": text, "hidden": [asdict(h) for h in hidden]}

    @torch.inference_mode()
    def row_logits(self, texts: Sequence[Sequence[str]], *, whole: bool) -> Logits:
        """As `logits`, of texts that are cleaned and masked already."""
        if not texts:
            return Logits(torch.empty(0, 4), [], [])
        packed = pack_texts(
            self._tokenizer,
            texts,
            max_tokens=self.max_tokens,
            max_windows=self._manifest.max_windows if whole else 1,
        )
        windows = build_windows(packed)
        output = torch.empty(len(windows), 4, device=self._device)
        members = np.arange(len(windows))
        worth = WORTH_TOKENS[self._device.type]
        for indices in batches_by_length(
            windows.lengths, members, _BATCH_TOKENS, worth_tokens=worth
        ):
            batch = collate(windows, indices, pad_id=self._tokenizer.pad_token_id).to(self._device)
            logits = self._model(batch.input_ids, batch.attention_mask)
            output[torch.from_numpy(indices).to(self._device)] = logits
        pooled = pool_rows(
            output,
            torch.from_numpy(windows.row).to(self._device),
            torch.from_numpy(windows.lengths).to(self._device),
            len(packed),
        )
        return Logits(pooled, [p.truncated for p in packed], [len(p.windows) for p in packed])

    def warm_up(self) -> None:
        """Run texts of several lengths, so that the first user does not wait for allocations."""
        for words in (1, 32, self.max_tokens):
            self.predict([["word " * words]], whole=False)


def golden_logits(bundle: Bundle, texts: Sequence[str]) -> list[list[float]]:
    """The logits of texts as serving on a CPU computes them; what `write_bundle` records."""
    values: list[list[float]] = (
        Predictor(bundle).logits([[text] for text in texts], whole=False).values.tolist()
    )
    return values


class MBTIClassifier:
    """A trained model in Python; source: the seed's "Inference" section.

    >>> classifier = MBTIClassifier.load_from_checkpoint("runs/quick/best/bundle")
    >>> classifier.predict("I love analysing complex problems")
    'INTJ'
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, *, device: str = "cpu") -> "MBTIClassifier":
        """A classifier from a bundle folder, or from the run or study folder that holds one.

        Raises:
            RunError: There is no bundle at the path.
            BundleError: The bundle is damaged.
        """
        return cls(Predictor.load(find_bundle(path), device=device))

    @overload
    def predict(self, text: str) -> str: ...
    @overload
    def predict(self, text: list[str] | tuple[str, ...]) -> list[str]: ...
    def predict(self, text: str | list[str] | tuple[str, ...]) -> str | list[str]:
        """The type of a text, or of each text of a list."""
        if isinstance(text, str):
            return self.predict([text])[0]
        return [p.mbti_type for p in self._predictor.predict([[t] for t in text], whole=False)]

    def predict_proba(self, text: str | Sequence[str]) -> Tensor:
        """Probabilities of E, N, T, J: [4] for a text, [R, 4] for a list."""
        if isinstance(text, str):
            return self.predict_proba([text])[0]
        predictions = self._predictor.predict([[t] for t in text], whole=False)
        return torch.tensor([p.probabilities for p in predictions]).reshape(-1, 4)
