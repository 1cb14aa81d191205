"""From logits to letters: temperatures, base rates, thresholds, abstention, and how sure more text
would make it.

Shapes: R rows, 4 dimensions in the order E, N, T, J. Must not know texts or tokenizers.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mbti_ray.config.serve_section import BaseRates
from mbti_ray.errors import ConfigError
from mbti_ray.inference.manifest import Manifest
from mbti_ray.scores.calibration import LengthScaling
from mbti_ray.typology import POSITIVE_POLES, type_of

# The probability of a letter of which `more_posts` speaks.
SURE = 0.8
# Scores that count both poles alike: their best threshold is the base rate, not 0.5.
_BALANCED = ("balanced_accuracy", "f1")


class Decision:
    """How a bundle turns logits into letters, for people with given base rates.

    Attributes:
        thresholds: Probability above which the positive pole is predicted, float32 [4].
        abstain: A probability closer to its threshold than this is answered with X.
        info: The thresholds and the base rates asked, as /info has them.

    Asked are the shares of each positive pole among the people; a pole without one is as in the
    training data. Raises ConfigError where a bundle does not say what the rates of these were.
    """

    def __init__(self, manifest: Manifest, base_rates: BaseRates | None = None) -> None:
        self._rule = manifest
        self.abstain = manifest.abstain
        self._temperatures = torch.tensor(manifest.temperature)
        self._shift = torch.zeros(4)
        asked = base_rates.model_dump(exclude_none=True) if base_rates else {}
        thresholds = [*manifest.thresholds]
        if asked and manifest.base_rates is None:
            raise ConfigError(
                f"bundle {manifest.id}: base rates need those of the training data, which bundles "
                "of this version do not carry; train again, or leave them out"
            )
        scoring = manifest.config.get("scoring")
        objective = scoring.get("threshold") if isinstance(scoring, dict) else None
        for k, (pole, trained) in enumerate(
            zip(POSITIVE_POLES, manifest.base_rates or [0.5] * 4, strict=True)
        ):
            if rate := asked.get(pole):
                # A tuned threshold was tuned at the rates of the training data.
                thresholds[k] = rate if objective in _BALANCED else 0.5
                self._shift[k] = _log_odds(rate) - _log_odds(trained)
        self.thresholds = torch.tensor(thresholds)
        self.info = {"thresholds": thresholds, "asked_base_rates": asked}

    def calibrate(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits [R, 4] over temperatures, plus the change of base rates; tokens read [R]."""
        temperatures = self._temperatures
        if self._rule.length is not None:
            temperatures = torch.from_numpy(self._rule.temperatures(np.array(tokens))).float()
        return logits.cpu() / temperatures + self._shift

    def decide_types(self, probabilities: Tensor) -> list[str]:
        """The type of each row of calibrated probabilities [R, 4]; X where the bundle abstains."""
        thresholds: list[float] = self.thresholds.tolist()
        types = []
        for row in probabilities.tolist():
            # In Python: for a single row, as most requests have, a tensor takes ten times as long.
            above = [p - threshold for p, threshold in zip(row, thresholds, strict=True)]
            letters = zip(type_of([a > 0 for a in above]), above, strict=True)
            types.append("".join("X" if abs(a) < self.abstain else one for one, a in letters))
        return types

    def more_posts(
        self, calibrated: Sequence[float], *, tokens: int, posts: int
    ) -> dict[str, int | None] | None:
        """About how many more posts like those read would make each letter 80 % probable.

        By the fitted temperatures, if the logits stay what they are. 0 where it is so already; None
        where it would take more text than was seen in validation, or no text does. None for all in
        a bundle whose temperatures do not depend on the length.
        """
        length = self._rule.length
        if length is None:
            return None
        return {
            pole: self._posts_to_sure(calibrated[k], k, length, tokens=tokens, posts=posts)
            for k, pole in enumerate(POSITIVE_POLES)
        }

    def _posts_to_sure(
        self, logit: float, k: int, length: LengthScaling, *, tokens: int, posts: int
    ) -> int | None:
        read, slope = min(max(tokens, length.low), length.high), length.slope[k]
        shift = float(self._shift[k])
        # Beyond 700 exp overflows.
        is_positive = 1 / (1 + math.exp(-max(logit, -700.0))) > float(self.thresholds[k])
        wanted = _log_odds(SURE) if is_positive else -_log_odds(SURE)
        if abs(logit) >= abs(wanted) and (logit > 0) == is_positive:
            return 0
        own, needed = logit - shift, wanted - shift
        # The text must speak for the letter itself: it counts for more when there is more of it.
        if slope >= 0 or own == 0 or needed / own <= 1:
            return None
        growth = math.log(own / needed) / slope
        if growth > math.log(length.high / read):
            return None
        # A text that is shorter than those of the temperatures has to become as long first.
        growth += math.log(max(1.0, read / max(1, tokens)))
        return math.ceil(max(1, posts) * math.expm1(growth))


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
