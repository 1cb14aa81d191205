"""The answer to `"explain": "words"`: what would be predicted if each word were left out.

It needs no gradients, so it is the same with every runtime. Must not know queues or models: what is
predicted without a word is asked of the caller.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.data.text import has_content
from mbti_ray.inference.prediction import Prediction
from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")

Probabilities = dict[str, float]
MAX_WORDS = 256
# The probabilities of several users, each given by posts.
Ask = Callable[[Sequence[tuple[str, ...]]], Awaitable[list[Probabilities]]]


@dataclass(frozen=True)
class LeftOut:
    """A word, as characters `start` to `end` of a cleaned post, and all posts without it."""

    start: int
    end: int
    posts: tuple[str, ...]

    def influence(self, full: Probabilities, without: Probabilities) -> dict[str, float]:
        """How much lower each probability would be without the word."""
        changes = {pole: p - without[pole] for pole, p in full.items()}
        return {"start": self.start, "end": self.end, **changes}


def leave_words_out(reads: Sequence[Mapping[str, Any]], post: int) -> list[LeftOut]:
    """Each word of a post left out; masked ones do not count, nor does an only one."""
    texts = [read["text"] for read in reads]
    text, hidden = texts[post], reads[post]["hidden"]
    left_out = []
    for word in _WORD.finditer(text):
        if any(word.start() < span["end"] and span["start"] < word.end() for span in hidden):
            continue
        rest = text[: word.start()] + text[word.end() :]
        posts = (*texts[:post], *([rest] if has_content(rest) else []), *texts[post + 1 :])
        if posts:
            left_out.append(LeftOut(word.start(), word.end(), posts))
    return left_out


async def explain_words(
    request: PredictRequest,
    reads: Sequence[Sequence[dict[str, Any]]],
    predictions: Sequence[Prediction],
    ask: Ask,
) -> None:
    """Adds `words` to the reads of each user's posts; of several posts, to those that matter most.

    Raises:
        APIError: TOO_LARGE: more than MAX_WORDS words.
    """
    left_out: list[tuple[dict[str, Any], Probabilities, LeftOut]] = []
    for posts, prediction in zip(reads, predictions, strict=False):
        full = prediction.probabilities
        for place in await _by_influence([read["text"] for read in posts], full, ask):
            words = leave_words_out(posts, place)
            total = len(left_out) + len(words)
            if total > MAX_WORDS:
                if request.whole and left_out:
                    break
                raise APIError(
                    ErrorCode.TOO_LARGE,
                    f"{request.where(place) if request.whole else 'inputs'}: {total:,} words or "
                    f'more; allowed with "explain": "words": {MAX_WORDS}',
                )
            posts[place]["words"] = []
            left_out += [(posts[place], full, word) for word in words]
    answers = await ask([word.posts for *_, word in left_out])
    for (read, full, word), without in zip(left_out, answers, strict=True):
        read["words"].append(word.influence(full, without))


async def _by_influence(texts: Sequence[str], full: Probabilities, ask: Ask) -> list[int]:
    """The places of posts, the one without which the answer would change most first."""
    if len(texts) == 1:
        return [0]
    without = await ask([(*texts[:k], *texts[k + 1 :]) for k in range(len(texts))])
    change = [max(abs(full[pole] - p) for pole, p in answer.items()) for answer in without]
    return sorted(range(len(texts)), key=lambda place: -change[place])
