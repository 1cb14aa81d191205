"""Token ids of texts, put together from those of their words.

A BERT tokenizer reads what stands between two spaces by itself, and in a word each punctuation mark
and what is between two of them. Most of these occur again and again: with their ids in memory, a
text takes a tenth of the time that the `tokenizers` library takes. The ids are the library's. Must
not know of transformers, so that the processes that prepare data need not load it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer as Backend

# Some 20 MB of a process at most, and as much for their pieces.
_MAX_WORDS = 2**16
# Marks that are a piece each in every BERT tokenizer, and that no other character changes.
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_PIECE = re.compile("[A-Za-z0-9]+|.")
# The library's encodings take a hundred times the memory of their ids.
_ENCODED_AT_ONCE = 1024


class WordTokenizer:
    """A tokenizer without a length limit; may be used by several threads.

    Attributes:
        cls_token_id: What a window starts with.
        sep_token_id: What a post ends with.
    """

    def __init__(self, backend: str, *, cls_token_id: int, sep_token_id: int) -> None:
        """Takes the tokenizer as the JSON of the `tokenizers` library."""
        self.cls_token_id, self.sep_token_id = cls_token_id, sep_token_id
        self._backend = Backend.from_str(backend)
        self._backend.no_truncation()
        self._backend.no_padding()
        settings = json.loads(backend)
        self._is_by_word = _reads_words_alone(settings)
        # A token such as [SEP] is read first, and may be of several pieces.
        marks = {*_MARKS}.difference(*(token["content"] for token in settings["added_tokens"]))
        self._has_pieces = re.compile(f"[A-Za-z0-9{re.escape(''.join(sorted(marks)))}]+")
        self._ids_of: dict[str, tuple[int, ...]] = {}
        self._ids_of_piece: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> "WordTokenizer":
        """From a tokenizer of transformers."""
        ids = {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
        return cls(tokenizer.backend_tokenizer.to_str(), **ids)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        if not self._is_by_word:
            return self._encode(texts)
        # Another thread may start over meanwhile; this one keeps what it has.
        ids_of = self._ids_of if len(self._ids_of) < _MAX_WORDS else {}
        self._ids_of = ids_of
        words = [text.split(" ") for text in texts]
        if new := set[str]().union(*words).difference(ids_of):
            ids_of.update(self._read_words(new))
        return [[*chain.from_iterable(map(ids_of.__getitem__, each))] for each in words]

    def _read_words(self, words: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        ids_of = self._ids_of_piece if len(self._ids_of_piece) < _MAX_WORDS else {}
        self._ids_of_piece = ids_of
        pieces = {
            word: _PIECE.findall(word) if self._has_pieces.fullmatch(word) else [word]
            for word in words
        }
        new = [*set[str]().union(*pieces.values()).difference(ids_of)]
        ids_of.update(zip(new, map(tuple, self._encode(new)), strict=True))
        for word, each in pieces.items():
            ids = [ids_of[piece] for piece in each]
            yield word, ids[0] if len(ids) == 1 else tuple(chain.from_iterable(ids))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids
            for start in range(0, len(texts), _ENCODED_AT_ONCE)
            for encoding in self._backend.encode_batch(
                list(texts[start : start + _ENCODED_AT_ONCE]), add_special_tokens=False
            )
        ]


def _reads_words_alone(backend: dict[str, dict[str, object] | None]) -> bool:
    """Whether no token, and no rule of the tokenizer, reaches over a space."""
    kinds = [(backend[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    added: list[dict[str, object]] = backend["added_tokens"]  # type: ignore[assignment]
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or " " in str(token["content"])
        for token in added
    )
