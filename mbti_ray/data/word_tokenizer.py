"""Token ids of texts, put together from those of their words.

A BERT tokenizer reads what stands between two spaces by itself, and most words occur again and
again: with their ids in memory, a text takes a tenth of the time that the `tokenizers` library
takes. The ids are the library's. Must not know of transformers, so that the processes that prepare
data need not load it.
"""

import json
from collections.abc import Sequence
from itertools import chain

from tokenizers import Tokenizer as Backend

# Some 20 MB of a process at most.
_MAX_WORDS = 2**16
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
        self._is_by_word = _reads_words_alone(json.loads(backend))
        self._ids_of: dict[str, list[int]] = {}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        if not self._is_by_word:
            return self._encode(texts)
        # Another thread may start over meanwhile; this one keeps what it has.
        ids_of = self._ids_of if len(self._ids_of) < _MAX_WORDS else {}
        self._ids_of = ids_of
        words = [text.split(" ") for text in texts]
        if new := [*{word for each in words for word in each if word not in ids_of}]:
            ids_of.update(zip(new, self._encode(new), strict=True))
        return [[*chain.from_iterable(map(ids_of.__getitem__, each))] for each in words]

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
        token["lstrip"] or token["rstrip"] or " " in str(token["content"]) for token in added
    )
