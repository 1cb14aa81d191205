"""From texts to token ids: the encoder's own tokenizer, or a small WordPiece built from the texts.

The one way in which training, evaluation and serving tokenize. Must not know of files, labels or
splits.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenizers import Tokenizer as Backend

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.encoder_files import TINY, encoder_load_error, locate_encoder, safe_options
from mbti_ray.data.windows import EncodedRow, split_into_posts, split_into_windows, truncate

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    Tokenizer: TypeAlias = PreTrainedTokenizerBase
else:
    # Processes that prepare data encode rows without loading transformers.
    Tokenizer = Any

# Some 20 MB of a process at most, and as much for their pieces; a few times that in scripts without
# spaces, where a word is a sentence.
_MAX_WORDS = 2**16
# A longer word hardly occurs again, and may be a whole text.
_MAX_CHARACTERS = 32
# Marks that are a piece each in every BERT tokenizer, and that no other character changes.
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_PIECE = re.compile("[A-Za-z0-9]+|.")
# The library's encodings take a hundred times the memory of their ids.
_ENCODED_AT_ONCE = 1024
_TINY_WORDS = 2000
# Enough texts to find the common words; more of a large file would only take time.
_TINY_TEXTS = 20_000
_UNBOUNDED = 10**9
# The special tokens that a reader of texts knows.
_ROLES = ("cls", "sep", "pad", "unk")
# More than words have: a beginning of so many characters has more tokens than are read.
_CHARACTERS_PER_TOKEN = 16


class WordTokenizer:
    """A tokenizer without a length limit; may be used by several threads.

    A BERT tokenizer reads what stands between two spaces by itself, and in a word each punctuation
    mark and what is between two of them. Most of these occur again and again: with their ids in
    memory, a text takes a tenth of the time that the `tokenizers` library takes. The ids are the
    library's.
    """

    def __init__(
        self,
        backend: str,
        *,
        cls_token_id: int,
        sep_token_id: int,
        pad_token_id: int = 0,
        unk_token_id: int | None = None,
    ) -> None:
        """Takes the tokenizer as the JSON of the `tokenizers` library."""
        self.cls_token_id, self.sep_token_id = cls_token_id, sep_token_id
        self.pad_token_id, self.unk_token_id = pad_token_id, unk_token_id
        self._backend = Backend.from_str(backend)
        self._backend.no_truncation()
        self._backend.no_padding()
        settings = json.loads(backend)
        self._special = {t["content"] for t in settings["added_tokens"] if t["special"]}
        self._is_by_word = _reads_words_alone(settings)
        # A token such as [SEP] is read first, and may be of several pieces.
        marks = {*_MARKS}.difference(*(token["content"] for token in settings["added_tokens"]))
        self._has_pieces = re.compile(f"[A-Za-z0-9{re.escape(''.join(sorted(marks)))}]+")
        self._ids_of: dict[str, tuple[int, ...]] = {}
        self._ids_of_piece: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> "WordTokenizer":
        """From a tokenizer of transformers."""
        ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _ROLES}
        return cls(tokenizer.backend_tokenizer.to_str(), **ids)

    @classmethod
    def load(cls, folder: Path) -> "WordTokenizer":
        """From the files of a tokenizer of transformers, which takes as long to import as torch."""
        backend = (folder / "tokenizer.json").read_text("utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        id_of = {token["content"]: token["id"] for token in json.loads(backend)["added_tokens"]}
        tokens = {f"{role}_token_id": settings.get(f"{role}_token") for role in _ROLES}
        ids: dict[str, Any] = {
            name: id_of.get(token["content"] if isinstance(token, dict) else token)
            for name, token in tokens.items()
        }
        return cls(backend, **ids)

    def is_word(self) -> list[bool]:
        """Of each id, whether it has a letter or digit: punctuation is known in any language."""
        tokens = map(self._backend.id_to_token, range(self._backend.get_vocab_size()))
        return [t not in self._special and any(map(str.isalnum, t or "")) for t in tokens]

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
        rows = [[*chain.from_iterable(map(ids_of.__getitem__, each))] for each in words]
        _forget_long(ids_of, new)
        return rows

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
        _forget_long(ids_of, new)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids
            for start in range(0, len(texts), _ENCODED_AT_ONCE)
            for encoding in self._backend.encode_batch(
                list(texts[start : start + _ENCODED_AT_ONCE]), add_special_tokens=False
            )
        ]


def _forget_long(memory: dict[str, tuple[int, ...]], new: Iterable[str]) -> None:
    for text in new:
        if len(text) > _MAX_CHARACTERS:
            del memory[text]


def _reads_words_alone(backend: dict[str, dict[str, object] | None]) -> bool:
    """Whether no token, and no rule of the tokenizer, reaches over a space."""
    kinds = [(backend[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    added: list[dict[str, object]] = backend["added_tokens"]  # type: ignore[assignment]
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or " " in str(token["content"])
        for token in added
    )


def build_tokenizer(encoder: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for `model.encoder`, or a ConfigError; only `tiny` reads the training texts."""
    if encoder == TINY:
        return _build_wordpiece(training_texts)
    return load_tokenizer(locate_encoder(encoder), name=encoder)


def load_tokenizer(
    place: str | Path, *, name: str | None = None, config: "PreTrainedConfig | None" = None
) -> Tokenizer:
    """A tokenizer from a folder or the hub, without a length limit of its own.

    `config` is the encoder's, where config.json has another.
    """
    from transformers import AutoTokenizer

    try:
        options = safe_options(place)
        tokenizer = AutoTokenizer.from_pretrained(str(place), config=config, **options)
    except (OSError, ValueError) as error:
        raise encoder_load_error(name or str(place), error) from None
    # Windows limit the length; the tokenizer's own limit would only print warnings.
    tokenizer.model_max_length = _UNBOUNDED
    return tokenizer


def encode_rows(
    tokenizer: WordTokenizer, rows: Sequence[Sequence[str]], model: ModelConfig, *, max_windows: int
) -> list[EncodedRow]:
    """The windows of each row of prepared texts; training, evaluation and serving all call this."""
    max_tokens = model.window_tokens
    split = split_into_posts if model.reads_posts else split_into_windows
    texts = list(dict.fromkeys(text for row in rows for text in row))
    if model.truncation == "head":
        tokenized = _tokenize_beginnings(tokenizer, texts, max_tokens * max_windows)
    else:
        tokenized = tokenizer.tokenize(texts)
    ids = dict(zip(texts, tokenized, strict=True))
    windows = (
        split(
            [ids[text] for text in row],
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            max_tokens=max_tokens,
        )
        for row in rows
    )
    limits = {"max_tokens": max_tokens, "max_windows": max_windows}
    return [truncate(of_row, model.truncation, **limits) for of_row in windows]


def _tokenize_beginnings(
    tokenizer: WordTokenizer, texts: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """The ids of each text; of a long one perhaps only the first ones, more than `max_tokens`.

    Cut at a space, which no token spans: the ids of a beginning are the first ids of the whole.
    """
    limit = _CHARACTERS_PER_TOKEN * max_tokens
    ends = [text.find(" ", limit) if len(text) > limit else -1 for text in texts]
    beginnings = [text if end < 0 else text[:end] for text, end in zip(texts, ends, strict=True)]
    ids = tokenizer.tokenize(beginnings)
    for i, end in enumerate(ends):
        if end >= 0 and len(ids[i]) <= max_tokens:
            # Too few: words without a token (invisible characters), or longer than words are.
            ids[i] = tokenizer.tokenize([texts[i]])[0]
    return ids


def _build_wordpiece(texts: Iterable[str]) -> Tokenizer:
    """A WordPiece tokenizer of the most frequent words, and of all characters for the others.

    The vocabulary is counted here because the trainer of the `tokenizers` library breaks ties by
    the order of a hash table, so that each run would get another vocabulary and another model.
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in islice(texts, _TINY_TEXTS):
        split = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        words.update(word for word, _ in split)
    characters = sorted({c for word in words for c in word})
    common = sorted(words, key=lambda word: (-words[word], word))[:_TINY_WORDS]
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    pieces = [*special.values(), *characters, *(f"##{c}" for c in characters), *common]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(models.WordPiece(vocabulary, unk_token=special["unk"]))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=_UNBOUNDED,
        **{f"{role}_token": token for role, token in special.items()},
    )
