"""Which words move a prediction: what would be answered if each of them were left out.

It needs no gradients, so it is the same with every runtime.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.data.text import has_content

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")

Probabilities = dict[str, float]


@dataclass(frozen=True)
class LeftOut:
    """A word, as characters `start` to `end` of a cleaned post, and all posts without it."""

    post: int
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
            left_out.append(LeftOut(post, word.start(), word.end(), posts))
    return left_out
