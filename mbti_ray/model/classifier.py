"""The classifier: encoder, pooling, dropout, four heads. It returns logits, not probabilities.

Source: the seed's "Model Components". The four heads are one linear map whose rows are the heads
in the order E, N, T, J: the same parameters, one matrix product. Must not know ranks or files.

Legend: B windows (N of a split, of R rows), T tokens, H hidden size, 4 dimensions.
"""

from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.collate import Packing
from mbti_ray.errors import ConfigError
from mbti_ray.model.encoder import (
    build_encoder,
    check_positions,
    encoder_config,
    layer_kinds,
    layers_of,
    load_encoder,
    position_offset,
)
from mbti_ray.model.packed_attention import PACKED_ATTENTION
from mbti_ray.typology import DIMENSIONS

Stage = Literal["heads", "last_layer", "all"]


class Float32Linear(nn.Linear):
    """A linear map that autocast leaves in float32: served logits are float32, too."""

    def forward(self, features: Tensor) -> Tensor:
        kind = features.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(features)
        with torch.autocast(kind, enabled=False):
            return super().forward(features.float())


class MBTIModel(nn.Module):
    """An encoder with four binary heads."""

    def __init__(self, encoder: nn.Module, *, pooling: str, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        # Every layer attends alike, with a mask that broadcasts over heads and queries.
        self._is_uniform = bool(encoder._supports_attention_backend) and not layer_kinds(encoder)
        self.heads = Float32Linear(encoder.config.hidden_size, len(DIMENSIONS))  # type: ignore[union-attr, arg-type]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None = None
    ) -> Tensor:
        """Logits [B, 4] in the order E, N, T, J of ids int64 [B, T] and a mask bool [B, T].

        Args:
            attention_mask: True where a token is not padding; None where none is.
            packing: Where B windows lie in ids [1, T]; see `use_packed_attention`.
        """
        if packing is not None:
            return self.apply_heads(self._packed_features(input_ids, packing))
        return self.apply_heads(self.features(input_ids, attention_mask))

    def features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The encoder's output for each window, pooled over its tokens: [B, H]."""
        mask = attention_mask
        if mask is not None and self._is_uniform:
            # Used as it is. A flat mask transformers inspects first, which waits for the GPU.
            mask = mask[:, None, None, :]
        states = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return self._pool(states, attention_mask)

    def _packed_features(self, input_ids: Tensor, packing: Packing) -> Tensor:
        """As `features`, for windows packed into one row: ids [1, T] to [B, H]."""
        positions = packing.positions + position_offset(self.encoder)
        # Masks of T x T would be made for sliding windows, which the packed attention has itself.
        masks = {kind: None for kind in layer_kinds(self.encoder)} or None
        states = self.encoder(
            input_ids=input_ids, attention_mask=masks, position_ids=positions, packing=packing
        ).last_hidden_state[0]
        starts, ends = packing.bounds[:-1].long(), packing.bounds[1:].long()
        if self.pooling == "cls":
            pooled: Tensor = states[starts]
            return pooled
        total = torch.zeros(len(starts), states.shape[1], device=states.device)
        total = total.index_add(0, packing.owner, states.float())
        return total / (ends - starts)[:, None]

    def apply_heads(self, features: Tensor) -> Tensor:
        """Logits [B, 4] of pooled features [B, H]."""
        logits: Tensor = self.heads(self.dropout(features))
        return logits

    def _pool(self, states: Tensor, mask: Tensor | None) -> Tensor:
        if self.pooling == "cls":
            return states[:, 0]
        if mask is None:
            return states.mean(1)
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)


def build_model(
    config: ModelConfig, *, vocabulary: int, seed: int, pretrained: bool = True
) -> MBTIModel:
    """The model of a run at step 0; the same seed gives the same weights on every rank.

    Args:
        vocabulary: Size of the tokenizer's vocabulary; only the tiny encoder is sized by it.
        pretrained: False leaves the weights random, to count them or to load others.
    """
    shape = encoder_config(config.encoder, vocabulary=vocabulary, max_tokens=config.max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = load_encoder(config.encoder, shape) if pretrained else build_encoder(shape)
        check_positions(config.encoder, encoder, config.max_tokens)
        return MBTIModel(encoder, pooling=config.pooling, dropout=config.dropout)


def pool_rows(logits: Tensor, row: Tensor, tokens: Tensor, row_count: int) -> Tensor:
    """Row logits [R, 4]: the mean of a row's window logits [N, 4], weighted by their tokens [N].

    Args:
        row: The row of each window, [N].
    """
    weight = tokens.to(logits.dtype)
    total = torch.zeros(row_count, dtype=logits.dtype, device=logits.device)
    total.index_add_(0, row, weight)
    pooled = torch.zeros(row_count, logits.shape[1], dtype=logits.dtype, device=logits.device)
    pooled.index_add_(0, row, logits * weight[:, None])
    return pooled / total[:, None]


def stage_of_epoch(trainable: str, epoch: int) -> Stage:
    """What an epoch (counted from 0) trains; source: the seed's fine-tuning strategies."""
    if trainable == "gradual":
        return ("heads", "last_layer", "all")[min(epoch, 2)]
    return "heads" if trainable == "heads" else "all"


def use_packed_attention(model: MBTIModel) -> None:
    """Make the encoder attend within each window of a packed row; padded batches still work."""
    encoder: Any = model.encoder
    takes_positions = "position_ids" in signature(encoder.forward).parameters
    if not (takes_positions and replace_attention(model)):
        raise ConfigError(
            f"fit.attention=packed: the attention of {type(encoder).__name__} cannot be replaced; "
            "use padded"
        )


def replace_attention(model: MBTIModel) -> bool:
    """Have the encoder use `packed_attention_forward`, where its architecture allows it."""
    encoder: Any = model.encoder
    if encoder._supports_attention_backend:
        encoder.set_attn_implementation(PACKED_ATTENTION)
    return bool(encoder._supports_attention_backend)


def enable_gradient_checkpointing(model: MBTIModel) -> None:
    """Recompute the activations of the encoder's layers in the backward pass.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    encoder: Any = model.encoder
    if not getattr(encoder, "supports_gradient_checkpointing", False):
        raise ConfigError("fit.gradient_checkpointing=true: this encoder does not support it")
    options = {"use_reentrant": False}
    # Renamed between transformers 5.17 and 5.23.
    if hasattr(encoder, "activation_checkpointing_enable"):
        encoder.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def set_trainable(model: MBTIModel, stage: Stage) -> None:
    """Freeze all that the stage does not train: no gradients, no weight decay."""
    model.encoder.requires_grad_(stage == "all")
    if stage == "last_layer":
        layers_of(model.encoder)[-1].requires_grad_(True)
    model.heads.requires_grad_(True)
