"""The answer to `"explain": "words"`: what would be predicted if each word were left out.

It needs no gradients, so it is the same with every runtime. Must not know queues or models: what is
predicted without a word is asked of the caller.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mbti_ray.data.text import find_word_spans, has_content
from mbti_ray.inference.prediction import Prediction
from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest

Posts = tuple[str, ...]
Probabilities = dict[str, float]
MAX_WORDS = 256
# Of a post, which is read once for each of its words.
MAX_CHARACTERS = 2**14
# The probabilities of several users, each given by posts.
Ask = Callable[[Sequence[Posts]], Awaitable[list[Probabilities]]]


def leave_words_out(
    reads: Sequence[Mapping[str, Any]], post: int
) -> Iterator[tuple[int, int, Posts]]:
    """Start and end of each word of a cleaned post, and all posts without it.

    Masked words do not count, nor does an only one.
    """
    texts = [read["text"] for read in reads]
    text, hidden = texts[post], reads[post]["hidden"]
    words, ends = find_word_spans(text), [span["end"] for span in hidden]
    # A word that stays is content. Only without another one the rest, which may be long, is looked
    # at; a word may be invisible, too.
    visible = [*islice((word for word in words if has_content(text[slice(*word)])), 2)]
    for start, end in words:
        place = bisect_right(ends, start)
        if place < len(hidden) and hidden[place]["start"] < end:
            continue
        rest = text[:start] + text[end:]
        is_left = visible != [(start, end)] or has_content(rest)
        posts = (*texts[:post], *([rest] if is_left else []), *texts[post + 1 :])
        if posts:
            yield start, end, posts


def _find_words(
    reads: Sequence[Mapping[str, Any]], post: int, *, allowed: int
) -> tuple[list[tuple[int, int, Posts]], str | None]:
    """What `leave_words_out` gives, and None; or nothing, and why it would be too much."""
    option = 'allowed with "explain": "words"'
    characters = len(reads[post]["text"])
    if characters > MAX_CHARACTERS:
        return [], f"{characters:,} characters; {option}: {MAX_CHARACTERS:,}"
    words = [*islice(leave_words_out(reads, post), allowed + 1)]
    if len(words) > allowed:
        return [], f"{MAX_WORDS + 1} words or more; {option}: {MAX_WORDS}"
    return words, None


async def explain_words(
    request: PredictRequest,
    reads: Sequence[Sequence[dict[str, Any]]],
    predictions: Sequence[Prediction],
    ask: Ask,
) -> None:
    """Adds `words` to the reads of each user's posts; of several posts, to those that matter most.

    Raises:
        APIError: TOO_LARGE: more than MAX_WORDS words, or MAX_CHARACTERS.
    """
    left_out: list[tuple[dict[str, Any], Probabilities, tuple[int, int, Posts]]] = []
    for posts, prediction in zip(reads, predictions, strict=False):
        full = prediction.probabilities
        for place in await _by_influence([read["text"] for read in posts], full, ask):
            # Each has a copy of the text.
            words, problem = _find_words(posts, place, allowed=MAX_WORDS - len(left_out))
            if problem:
                if request.whole and left_out:
                    break
                where = request.where(place) if request.whole else "inputs"
                raise APIError(ErrorCode.TOO_LARGE, f"{where}: {problem}; send less text")
            posts[place]["words"] = []
            left_out += [(posts[place], full, word) for word in words]
    answers = await ask([posts for *_, (_, _, posts) in left_out])
    for (read, full, (start, end, _)), without in zip(left_out, answers, strict=True):
        lower = {pole: p - without[pole] for pole, p in full.items()}
        read["words"].append({"start": start, "end": end, **lower})


async def _by_influence(texts: Sequence[str], full: Probabilities, ask: Ask) -> list[int]:
    """The places of posts, the one without which the answer would change most first."""
    if len(texts) == 1:
        return [0]
    without = await ask([(*texts[:k], *texts[k + 1 :]) for k in range(len(texts))])
    change = [max(abs(full[pole] - p) for pole, p in answer.items()) for answer in without]
    return sorted(range(len(texts)), key=lambda place: -change[place])
