"""From text to prediction: the one path of `predict`, `evaluate`, the service and `MBTIClassifier`.

Cleaning, masking, tokenization, windowing and pooling are the functions that training used.

Shapes: R inputs, B windows of one batch with W outputs each (see `MBTIModel`), 4 dimensions in the
order E, N, T, J.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbti_ray.config.serve_section import BaseRates, ServePrecision
from mbti_ray.data.batch_sampler import batches_by_length
from mbti_ray.data.mask import MASK_VERSION, find_masked_spans
from mbti_ray.data.text import clean_text, preprocess_text
from mbti_ray.data.tokenizer import encode_rows
from mbti_ray.data.windows import EncodedRow, TokenIds
from mbti_ray.errors import BundleError
from mbti_ray.inference.bundle import Bundle, load_bundle
from mbti_ray.inference.decision import Decision
from mbti_ray.inference.manifest import Manifest
from mbti_ray.inference.prediction import Prediction
from mbti_ray.inference.runtimes import Runtime, RuntimeKind, load_runtime
from mbti_ray.model.classifier import pool_rows
from mbti_ray.model.tfidf import UNKNOWN_WORD
from mbti_ray.typology import POSITIVE_POLES

# Padded tokens of a pass, unless the device needs more to be busy.
_BATCH_TOKENS = 4096
_EFFICIENT_PASSES = 4


class TokenReader:
    """Windows of tokens; for a stack, the words, too."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.tokenizer is not None
        self._tokenizer = bundle.tokenizer
        self._manifest = bundle.manifest
        self._words = WordReader(bundle) if bundle.stack else None
        self._is_word = np.array(bundle.tokenizer.is_word())

    def encode(self, texts: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """The windows of R preprocessed inputs; of one that is not read whole, the first."""
        model = self._manifest.model
        limit = self._manifest.max_windows if whole else model.text_windows
        rows = encode_rows(self._tokenizer, texts, model, max_windows=limit)
        if self._words is None:
            return rows
        words = self._words.encode(texts, whole=whole)
        return [replace(r, words=w.windows[0]) for r, w in zip(rows, words, strict=True)]

    def count_posts(self, row: EncodedRow) -> int:
        """About how many posts were read: each ends with [SEP], as does each part of a long one."""
        return sum(window.count(self._tokenizer.sep_token_id) for window in row.windows)

    def unknown_share(self, row: EncodedRow) -> float:
        """Share of the words of a row that the tokenizer does not know."""
        unknown_id: Any = self._tokenizer.unk_token_id
        unknown: int = sum(window.count(unknown_id) for window in row.windows)
        if not unknown:
            return 0.0
        return unknown / (unknown + int(self._is_word[np.concatenate(row.windows)].sum()))


class WordReader:
    """All words of a row, as one window."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.tfidf is not None
        self._tfidf = bundle.tfidf

    def encode(self, texts: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """The words of R preprocessed inputs, read whole in any case."""
        encode = self._tfidf.encode
        # A window has a token at least.
        return [
            EncodedRow([encode("\n".join(posts)) or [UNKNOWN_WORD]], False, posts=len(posts))
            for posts in texts
        ]

    def count_posts(self, row: EncodedRow) -> int:
        return row.posts

    def unknown_share(self, row: EncodedRow) -> float:
        """Share of the words of a row that no feature has; the ends of posts are no words."""
        window = row.windows[0]
        words, known = len(window) - row.posts + 1, len(window) - window.count(UNKNOWN_WORD)
        return 1 - known / words if words > 0 else 1.0


@dataclass(frozen=True)
class RowLogits:
    """Uncalibrated logits of R inputs, float32 [R, 4] on the CPU, and the inputs as read."""

    values: Tensor
    rows: Sequence[EncodedRow]


class Predictor:
    """A bundle, and the runtime that computes its logits."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime, base_rates: BaseRates | None = None
    ) -> None:
        self._manifest = bundle.manifest
        self.runtime = runtime
        self.bundle_id = bundle.manifest.id
        self._tfidf, self._stack = bundle.tfidf, bundle.stack
        has_tokens = bundle.tokenizer is not None
        self._reader = TokenReader(bundle) if has_tokens else WordReader(bundle)
        self.decision = Decision(self._manifest, base_rates)
        self.unit = self._manifest.unit
        self._is_masked = self._manifest.mask_version > 0
        self._model = bundle.manifest.model
        self.max_tokens = self._model.window_tokens
        if self._manifest.mask_version not in (0, MASK_VERSION):
            raise BundleError(
                f"bundle {self.bundle_id}: trained with masking version "
                f"{self._manifest.mask_version}, this program has version {MASK_VERSION}; train "
                f"again, or use mbti_ray {self._manifest.versions.get('mbti_ray', 'of then')}"
            )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        runtime: RuntimeKind = "torch",
        device: str | torch.device = "cpu",
        precision: ServePrecision = "32",
        base_rates: BaseRates | None = None,
    ) -> "Predictor":
        """Load a bundle and check that it reproduces its golden logits on this machine.

        Raises:
            ConfigError: It does not know the base rates of its training data; or the device does
                not have the precision.
            BundleError: It is damaged, has no export for the runtime, or does not reproduce its
                golden logits.
        """
        bundle = load_bundle(folder)
        computed_by = load_runtime(bundle, runtime, device=device, precision=precision)
        predictor = cls(bundle, computed_by, base_rates)
        predictor.check_golden()
        return predictor

    @property
    def info(self) -> dict[str, Any]:
        """The manifest without golden texts, file hashes and config, and the base rates asked."""
        facts = self._manifest.model_dump(mode="json", exclude={"golden", "files", "config"})
        return facts | self.decision.info

    def is_of(self, manifest: Manifest) -> bool:
        """Whether a manifest is its bundle's: the id is that of the weights, not of thresholds."""
        return self._manifest == manifest

    def check_golden(self) -> None:
        """Raise BundleError unless the golden texts reproduce the recorded logits."""
        golden = torch.tensor(self.runtime.golden)
        allowed = self.runtime.tolerance * max(1.0, float(golden.abs().max()))
        gap = float((self.golden_logits() - golden).abs().max())
        if not gap <= allowed:
            raise BundleError(
                f"bundle {self.bundle_id}: does not reproduce its golden logits (off by {gap:.2g}, "
                f"allowed {allowed:.2g}); it is damaged, or this machine multiplies float32 in "
                "less (TF32, bfloat16), or the versions differ too much"
            )

    def golden_logits(self) -> Tensor:
        """The logits [G, 4] of the bundle's golden texts, computed on this machine in float32."""
        with _ieee_float32():
            texts = [[golden.text] for golden in self._manifest.golden]
            return self.predict_logits(texts, whole=False).values

    def predict(self, inputs: Sequence[Sequence[str]], *, whole: bool) -> list[Prediction]:
        """Predictions for R inputs, each a list of posts.

        Args:
            whole: Read each input in as many windows as the bundle allows. Otherwise only
                `model.max_tokens` tokens are read, and a longer input counts as `truncated`.
        """
        return self.to_predictions(self.predict_logits(inputs, whole=whole))

    def to_predictions(self, logits: RowLogits) -> list[Prediction]:
        """Predictions from uncalibrated logits [R, 4]."""
        calibrated = self.calibrate(logits)
        probabilities = torch.sigmoid(calibrated)
        types = self.decide_types(probabilities, logits.rows)
        predictions = []
        for mbti_type, p, z, row in zip(
            types, probabilities.tolist(), calibrated.tolist(), logits.rows, strict=True
        ):
            unknown = self._reader.unknown_share(row)
            by_pole = dict(zip(POSITIVE_POLES, p, strict=True))
            more = self.decision.more_posts(
                z, tokens=row.tokens, posts=self._reader.count_posts(row)
            )
            predictions.append(
                Prediction(
                    mbti_type, by_pole, row.truncated, len(row.windows), unknown, row.tokens, more
                )
            )
        return predictions

    def decide_types(self, probabilities: Tensor, rows: Sequence[EncodedRow]) -> list[str]:
        """The types of rows; XXXX for one without a known word, from a bundle that may abstain."""
        types = self.decision.decide_types(probabilities)
        if not self.decision.abstain:
            return types
        shares = map(self._reader.unknown_share, rows)
        return ["XXXX" if unknown == 1 else t for t, unknown in zip(types, shares, strict=True)]

    def calibrate(self, logits: RowLogits) -> Tensor:
        """Calibrated logits [R, 4], on the CPU; see `Decision.calibrate`."""
        return self.decision.calibrate(logits.values, [row.tokens for row in logits.rows])

    def predict_logits(
        self, inputs: Sequence[Sequence[str]], *, whole: bool, is_preprocessed: bool = False
    ) -> RowLogits:
        """Uncalibrated logits [R, 4] of texts, raw or as `preprocess` returns them."""
        encode = self._reader.encode if is_preprocessed else self.encode
        rows = encode(inputs, whole=whole)
        windows, _ = distinct_windows(rows)
        lengths = np.fromiter((len(w) for w in windows), np.int64, len(windows))
        outputs = torch.empty(len(windows), self.runtime.output_size, device=self.runtime.device)
        efficient = self.runtime.min_efficient_tokens
        limit = max(_BATCH_TOKENS, _EFFICIENT_PASSES * efficient)
        members = np.arange(len(windows))
        for indices in batches_by_length(lengths, members, limit, min_efficient_tokens=efficient):
            rows_of_batch = torch.from_numpy(indices).to(self.runtime.device)
            outputs[rows_of_batch] = self.forward([windows[i] for i in indices])
        return self.pool(rows, outputs)

    def encode(self, inputs: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """The windows of R raw inputs as token ids: cleaned, masked, tokenized and cut."""
        texts = {post: self.preprocess(post) for posts in inputs for post in posts}
        rows = [[texts[post] for post in posts] for posts in inputs]
        return self._reader.encode(rows, whole=whole)

    def preprocess(self, post: str) -> str:
        """The text that the model reads for a post: cleaned, and masked if the bundle masks."""
        return preprocess_text(post, mask=self._is_masked, also=self._manifest.mask_also)

    def explain_masking(self, post: str) -> dict[str, Any]:
        """A cleaned post, and the spans of it that masking hides from the model."""
        text = clean_text(post)
        hidden = find_masked_spans(text, self._manifest.mask_also) if self._is_masked else []
        return {"text": text, "hidden": [asdict(h) for h in hidden]}

    def pool(self, rows: Sequence[EncodedRow], outputs: Tensor) -> RowLogits:
        """Logits [R, 4] of R inputs from the outputs of their `distinct_windows`."""
        of_window, windows = outputs, sum(len(row.windows) for row in rows)
        if windows > len(outputs):
            _, places = distinct_windows(rows)
            of_window = outputs[torch.from_numpy(places).to(outputs.device)]
        # Otherwise all are distinct, and in their order.
        if windows == len(rows) and self.runtime.output_size == len(POSITIVE_POLES):
            # The mean of a single window is that window: most requests are such.
            pooled = of_window.cpu()
        else:
            owner = np.repeat(np.arange(len(rows)), [len(row.windows) for row in rows])
            lengths = np.array([len(w) for row in rows for w in row.windows], np.int64)
            pooled = pool_rows(self.runtime.pool, of_window, owner, lengths).cpu()
        if self._stack is not None and self._tfidf is not None:
            tfidf = self._tfidf.logits([row.words or [] for row in rows])
            stacked = self._stack.logits(pooled.double().numpy(), tfidf)
            pooled = torch.from_numpy(stacked).float()
        return RowLogits(pooled, rows)

    def forward(self, windows: Sequence[TokenIds]) -> Tensor:
        """Outputs [B, W] of B windows, on the device: one pass."""
        return self.runtime(windows)

    def warmup_texts(self) -> list[str]:
        """Texts from one token to more than a window holds, each twice as long as the previous."""
        powers = (2**n for n in range(self.max_tokens.bit_length()))
        return ["word " * words for words in (*powers, self.max_tokens)]


def distinct_windows(rows: Sequence[EncodedRow]) -> tuple[list[TokenIds], NDArray[np.int64]]:
    """The windows of the rows, equal ones once, and the place in it of each window of each row.

    So nothing is encoded twice: a text that occurs twice, or the posts of a user when each one is
    left out to find its influence.
    """
    place_of: dict[tuple[int, ...], int] = {}
    places = [place_of.setdefault(tuple(w), len(place_of)) for row in rows for w in row.windows]
    return [[*window] for window in place_of], np.array(places, np.int64)


@contextmanager
def _ieee_float32() -> Iterator[None]:
    """No TF32 or bfloat16 in products of float32, whatever the image or a library has set."""
    mkldnn: Any = torch.backends.mkldnn
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
