"""The text encoder: pretrained, from a folder or the hub, or a tiny one with random weights.

Must not know heads or labels.
"""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mbti_ray.data.encoder_files import TINY, encoder_load_error, locate_encoder, safe_options
from mbti_ray.errors import ConfigError

# Transformers does not know it, so what loads a bundle as a model of its own fails at once.
BUNDLE_MODEL_TYPE = "mbti_ray"

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@cache
def _transformers() -> Any:
    """The library: imported where an encoder of its own is needed, since that takes seconds."""
    import transformers

    # Its load report lists the pooler, which is dropped on purpose.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def encoder_config(encoder: str, *, vocabulary: int, max_tokens: int) -> "PreTrainedConfig":
    """The transformers configuration of `model.encoder`; ConfigError where it cannot be loaded."""
    if encoder == TINY:
        return _transformers().DistilBertConfig(
            vocab_size=vocabulary,
            max_position_embeddings=max_tokens,
            dim=64,
            hidden_dim=128,
            n_layers=2,
            n_heads=4,
            # The only dropout is the one before the heads: `model.dropout`.
            dropout=0.0,
            attention_dropout=0.0,
            # The usual 0.02 suits hundreds of dimensions; with 64 it learns slowly at first.
            initializer_range=0.1,
        )
    try:
        place = locate_encoder(encoder)
        return _transformers().AutoConfig.from_pretrained(place, **safe_options(place))
    except (OSError, ValueError) as error:
        raise encoder_load_error(encoder, error) from None


def check_positions(name: str, encoder: nn.Module, max_tokens: int) -> None:
    """Raise ConfigError where a text may have more tokens than the encoder has positions."""
    positions = getattr(encoder.config, "max_position_embeddings", max_tokens)
    positions -= position_offset(encoder)
    if positions < max_tokens:
        raise ConfigError(
            f"model.max_tokens={max_tokens}: {name} has {positions} positions; "
            f"allowed: at most {positions}"
        )


def build_encoder(config: "PreTrainedConfig") -> nn.Module:
    """An encoder of the given architecture with random weights."""
    # Attention by SDPA where the architecture has it, as transformers chooses itself.
    return _without_pooler(_transformers().AutoModel.from_config(config, trust_remote_code=False))


def load_encoder(encoder: str, config: "PreTrainedConfig") -> nn.Module:
    """An encoder with its pretrained weights; random ones for `tiny`."""
    model = build_encoder(config)
    if encoder != TINY:
        model.load_state_dict(_pretrained_state(encoder))
    return model


# A trial actor trains many models from the same weights: read them once a process.
@lru_cache(maxsize=1)
def _pretrained_state(encoder: str) -> dict[str, torch.Tensor]:
    try:
        place = locate_encoder(encoder)
        load = _transformers().AutoModel.from_pretrained
        model = load(place, dtype=torch.float32, **safe_options(place))
    except (OSError, ValueError) as error:
        raise encoder_load_error(encoder, error) from None
    state: dict[str, torch.Tensor] = _without_pooler(model).state_dict()
    return state


def _without_pooler(model: nn.Module) -> nn.Module:
    # BERT's pooler is not on the path to our heads: its parameters never get a gradient.
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    return model


def read_encoder_shape(folder: Path) -> dict[str, Any]:
    """The encoder's configuration in a bundle folder, as JSON."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    # Before bundles had a model type of their own, transformers took one for its encoder alone.
    return content["encoder"] if content["model_type"] == BUNDLE_MODEL_TYPE else content


def as_config(shape: dict[str, Any]) -> "PreTrainedConfig":
    """The transformers configuration of what `read_encoder_shape` returns."""
    return _transformers().AutoConfig.for_model(**shape)


def position_offset(encoder: nn.Module) -> int:
    """The position id of a text's first token: RoBERTa and its kin count after the padding's."""
    padding = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def layer_kinds(encoder: nn.Module) -> set[str]:
    """The kinds of attention layers where some have sliding windows, as in ModernBERT."""
    kinds = set(getattr(encoder.config, "layer_types", None) or ())
    return kinds if "sliding_attention" in kinds else set()


def layers_of(encoder: nn.Module) -> nn.ModuleList:
    """The stack of transformer layers: the longest list of modules of the same class.

    ConfigError where the encoder has none.
    """
    stacks = [
        m
        for m in encoder.modules()
        if isinstance(m, nn.ModuleList) and len({type(layer) for layer in m}) == 1
    ]
    if not stacks:
        raise ConfigError(
            f"model.encoder: a {type(encoder).__name__} has no stack of layers; set "
            "model.trainable=all and optim.layer_decay=1"
        )
    return max(stacks, key=len)
