"""How a bundle reads texts: as windows of its tokenizer's tokens, or as the words of TF-IDF.

Must not know what is predicted from them, or how texts were cleaned and masked.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mbti_ray.data.tokenizer import WordTokenizer, encode_rows
from mbti_ray.data.windows import EncodedRow
from mbti_ray.inference.bundle import Bundle
from mbti_ray.model.tfidf import UNKNOWN_WORD


class TokenReader:
    """Windows of tokens; for a stack, the words, too."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.tokenizer is not None
        # A tokenizer of transformers looks the ids of its special tokens up anew each time.
        self._tokenizer = WordTokenizer.of(bundle.tokenizer)
        self._manifest = bundle.manifest
        self._words = WordReader(bundle) if bundle.stack else None
        self.pad_id: int = bundle.tokenizer.pad_token_id
        self._unknown_id: int = bundle.tokenizer.unk_token_id
        # Of each token id, whether it has a letter or digit: punctuation is known in any language.
        tokens = bundle.tokenizer.convert_ids_to_tokens(range(len(bundle.tokenizer)))
        special = set(bundle.tokenizer.all_special_tokens)
        self._is_word = np.array([t not in special and any(map(str.isalnum, t)) for t in tokens])

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
        unknown = sum(window.count(self._unknown_id) for window in row.windows)
        if not unknown:
            return 0.0
        return unknown / (unknown + int(self._is_word[np.concatenate(row.windows)].sum()))


class WordReader:
    """All words of a row, as one window."""

    pad_id = UNKNOWN_WORD

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
        """Share of the words of a row that no feature has."""
        return row.windows[0].count(UNKNOWN_WORD) / len(row.windows[0])
