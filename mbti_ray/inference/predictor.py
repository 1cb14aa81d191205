"""Text in, prediction out: the one path of `predict`, `evaluate`, the service and `MBTIClassifier`.

It cleans, masks, tokenises, packs and pools with the functions that training used. Knows nothing
of Ray, HTTP or files of data.

Shapes: R inputs, N windows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import batches_by_length
from mbti_ray.data.collate import pad
from mbti_ray.data.mask import MASK_VERSION, find_hidden
from mbti_ray.data.text import clean_text, preprocess_text
from mbti_ray.data.tokenizer import encode_rows
from mbti_ray.data.windows import EncodedRow, TokenIds
from mbti_ray.errors import BundleError
from mbti_ray.inference.bundle import Bundle, load_bundle
from mbti_ray.inference.runtimes import Runtime, RuntimeKind, load_runtime
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.scores.counts import pool_rows
from mbti_ray.typology import POSITIVE_POLES, type_of

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
class RowLogits:
    """Row logits [R, 4], uncalibrated, with what became of each input."""

    values: Tensor
    truncated: list[bool]
    windows: list[int]


class Predictor:
    """A bundle and what computes its logits, checked."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self._manifest = bundle.manifest
        self._runtime = runtime
        self._tokenizer = bundle.tokenizer
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
    def load(
        cls,
        folder: Path,
        *,
        runtime: RuntimeKind = "torch",
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> "Predictor":
        """Load a bundle and check that it reproduces its golden logits here.

        Args:
            runtime: What computes; anything but torch must have been exported before.
            threads: See `load_runtime`.

        Raises:
            BundleError: It is damaged, or computes something else than when it was made.
        """
        bundle = load_bundle(folder)
        predictor = cls(bundle, load_runtime(bundle, runtime, device=device, threads=threads))
        predictor.check_golden()
        return predictor

    @property
    def device(self) -> torch.device:
        """Where the forward pass runs."""
        return self._runtime.device

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
        golden, allowed = self._runtime.golden, self._runtime.tolerance
        if not golden:
            raise BundleError(f"bundle {self.bundle_id}: holds no golden texts; make it again")
        gap = float((self.golden_logits() - torch.tensor(golden)).abs().max())
        if not gap <= allowed:
            raise BundleError(
                f"bundle {self.bundle_id}: does not reproduce its golden logits (off by {gap:.2g}, "
                f"allowed {allowed:g}); it is damaged, or the versions differ too much"
            )

    def golden_logits(self) -> Tensor:
        """The logits [G, 4] of the bundle's golden texts as computed here."""
        return self.predict_logits([[g.text] for g in self._manifest.golden], whole=False).values

    def predict(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[Prediction]:
        """Predictions for R inputs, each a list of posts.

        Args:
            whole: Read each input in as many windows as the bundle allows; otherwise one window,
                which a longer text overruns (`truncated`).
        """
        return self.to_predictions(self.predict_logits(users, whole=whole))

    def to_predictions(self, logits: RowLogits) -> list[Prediction]:
        """Predictions from row logits [R, 4] before calibration."""
        probabilities = torch.sigmoid(self.calibrate(logits.values))
        types = self.decide_types(probabilities)
        return [
            Prediction(types[i], tuple(p), logits.truncated[i], logits.windows[i])
            for i, p in enumerate(probabilities.tolist())
        ]

    def calibrate(self, logits: Tensor) -> Tensor:
        """Logits [R, 4] divided by the bundle's temperatures, on the CPU."""
        return logits.cpu() / self._temperature

    def decide_types(self, probabilities: Tensor) -> list[str]:
        """The type of each row of calibrated probabilities [R, 4]; X where the bundle abstains."""
        unsure = (probabilities - self.thresholds).abs() < self.abstain
        poles = (probabilities > self.thresholds).tolist()
        return [
            "".join("X" if x else letter for letter, x in zip(type_of(row), xs, strict=True))
            for row, xs in zip(poles, unsure.tolist(), strict=True)
        ]

    def predict_logits(self, users: Sequence[Sequence[str]], *, whole: bool) -> RowLogits:
        """Row logits [R, 4] of raw texts before calibration, float32, on the CPU."""
        return self._logits_of(self.encode(users, whole=whole))

    def encode(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """The windows of R inputs as token ids: cleaned, masked, tokenised, cut."""
        return self._pack([[self.preprocess(p) for p in posts] for posts in users], whole=whole)

    def preprocess(self, post: str, *, mask: bool = True) -> str:
        """What the model reads of a post; with ``mask=False`` as if nothing had been hidden."""
        hides = mask and self._manifest.mask_version > 0
        return preprocess_text(post, mask=hides, also=self._manifest.mask_also)

    def explain_masking(self, post: str) -> dict[str, Any]:
        """A post in clean Unicode, and which of its characters are hidden from the model."""
        text = clean_text(post)
        hides = self._manifest.mask_version > 0
        hidden = find_hidden(text, self._manifest.mask_also) if hides else []
        return {"text": text, "hidden": [asdict(h) for h in hidden]}

    def predict_logits_of_preprocessed(
        self, texts: Sequence[Sequence[str]], *, whole: bool
    ) -> RowLogits:
        """As `logits`, of texts that are cleaned and masked already."""
        return self._logits_of(self._pack(texts, whole=whole))

    def _pack(self, texts: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        limit = self._manifest.max_windows if whole else 1
        return encode_rows(self._tokenizer, texts, max_tokens=self.max_tokens, max_windows=limit)

    def _logits_of(self, packed: Sequence[EncodedRow]) -> RowLogits:
        windows = [window for row in packed for window in row.windows]
        lengths = np.fromiter((len(w) for w in windows), np.int64, len(windows))
        output = torch.empty(len(windows), 4, device=self._runtime.device)
        for indices in batches_by_length(
            lengths,
            np.arange(len(windows)),
            _BATCH_TOKENS,
            min_efficient_tokens=self.min_efficient_tokens,
        ):
            logits = self.forward([windows[i] for i in indices])
            output[torch.from_numpy(indices).to(output.device)] = logits
        return pool_windows(packed, output.cpu())

    @property
    def min_efficient_tokens(self) -> int:
        """A forward pass of fewer tokens costs nearly as much; see `batches_by_length`."""
        return self._runtime.min_efficient_tokens

    def forward(self, windows: Sequence[TokenIds]) -> Tensor:
        """Window logits [B, 4] on the device, of B windows in one pass, padded to the longest."""
        ids, mask = pad(windows, pad_id=self._tokenizer.pad_token_id)
        device = self._runtime.device
        return self._runtime(ids.to(device), None if mask is None else mask.to(device))

    def warmup_texts(self) -> Iterator[str]:
        """Texts from one token to more than a window holds, each twice as long as the last."""
        words = 1
        while words <= self.max_tokens:
            yield "word " * words
            words *= 2
        yield "word " * self.max_tokens


def pool_windows(packed: Sequence[EncodedRow], logits: Tensor) -> RowLogits:
    """Row logits [R, 4] from window logits [N, 4], in the order of the windows of R inputs."""
    counts = torch.tensor([len(p.windows) for p in packed], dtype=torch.int64)
    row = torch.repeat_interleave(torch.arange(len(packed)), counts)
    tokens = torch.tensor([len(w) for p in packed for w in p.windows], dtype=torch.int64)
    pooled = pool_rows(logits, row, tokens, len(packed)) if packed else torch.empty(0, 4)
    return RowLogits(pooled, [p.truncated for p in packed], counts.tolist())


def compute_golden_logits(
    bundle: Bundle, texts: Sequence[str], runtime: RuntimeKind = "torch"
) -> list[list[float]]:
    """The logits of texts as serving on a CPU computes them; what `write_bundle` records."""
    predictor = Predictor(bundle, load_runtime(bundle, runtime))
    logits = predictor.predict_logits([[t] for t in texts], whole=False).values
    values: list[list[float]] = logits.tolist()
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
        """A classifier from a bundle, or from the run or study that holds one, by path or URL.

        Raises:
            RunError: There is no bundle at the path.
            BundleError: The bundle is damaged.
        """
        return cls(Predictor.load(fetch_bundle(path), device=device))

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
