"""From texts to token ids: the encoder's own tokenizer, or a small WordPiece built from the texts.

The one way in which training, evaluation and serving tokenize. Must not know of files, labels or
splits.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.encoder_files import TINY, encoder_load_error, locate_encoder, safe_options
from mbti_ray.data.windows import EncodedRow, split_into_posts, split_into_windows, truncate
from mbti_ray.data.word_tokenizer import WordTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    Tokenizer: TypeAlias = PreTrainedTokenizerBase
else:
    # Processes that prepare data encode rows without loading transformers.
    Tokenizer = Any
_TINY_WORDS = 2000
# Enough texts to find the common words; more of a large file would only take time.
_TINY_TEXTS = 20_000
_UNBOUNDED = 10**9
# More than words have: a beginning of so many characters has more tokens than are read.
_CHARACTERS_PER_TOKEN = 16


def build_tokenizer(encoder: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for `model.encoder`; only `tiny` reads the training texts.

    Raises:
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    if encoder == TINY:
        return _build_wordpiece(training_texts)
    return load_tokenizer(locate_encoder(encoder), name=encoder)


def load_tokenizer(
    place: str | Path, *, name: str | None = None, config: "PreTrainedConfig | None" = None
) -> Tokenizer:
    """A tokenizer from a folder or the hub, without a length limit of its own.

    Args:
        config: The encoder's, where config.json has another.
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
    tokenizer: WordTokenizer,
    rows: Sequence[Sequence[str]],
    model: ModelConfig,
    *,
    max_windows: int,
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
    from tokenizers import Tokenizer as Backend
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
