"""Text to token ids: the encoder's own tokenizer, or a small WordPiece made from the texts.

Knows nothing of windows, labels or splits.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mbti_ray.data.pretrained import TINY, hub_problem, locate_encoder

# Workers are forked after the tokenizer was used; its threads would not survive that.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Tokenizer: TypeAlias = PreTrainedTokenizerBase
_TINY_VOCABULARY = 2000
_UNBOUNDED = 10**9


def build_tokenizer(encoder: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for `model.encoder`; only `tiny` reads the training texts.

    Raises:
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    if encoder == TINY:
        return _train_wordpiece(training_texts)
    return load_tokenizer(locate_encoder(encoder), name=encoder)


def load_tokenizer(place: str | Path, *, name: str | None = None) -> Tokenizer:
    """A tokenizer from a folder or the hub, without a length limit of its own."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place))
    except (OSError, ValueError) as error:
        raise hub_problem(name or str(place), error) from None
    # Windows bound the length; the tokenizer's own limit would only print warnings.
    tokenizer.model_max_length = _UNBOUNDED
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens and without a length limit."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _train_wordpiece(texts: Iterable[str]) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    backend = Backend(models.WordPiece(unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_TINY_VOCABULARY, special_tokens=list(special.values()), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=_UNBOUNDED,
        **{f"{role}_token": token for role, token in special.items()},
    )
