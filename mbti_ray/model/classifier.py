"""The classifier: encoder, pooling, dropout, four heads. It returns logits, not probabilities.

Source: the seed's "Model Components". The four heads are one linear map whose rows are the heads
in the order E, N, T, J: the same parameters, one matrix product. Must not know ranks or files.

A row's logits are a weighted mean of those of its windows. For `reader=windows` the weight is the
number of tokens. For `reader=posts` each head attends to the posts (Yang et al. 2016, "Hierarchical
Attention Networks"), and because a head is linear, the mean of logits is the logit of the mean: a
post is done with when its four logits and four attention scores are known.

Legend: B windows (N of R rows, at most M of one), T tokens, H hidden size, 4 dimensions; W outputs
of a window: its 4 logits, for posts with 4 attention scores, or H features (`post_layers`).
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.collate import Groups, Packing
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
from mbti_ray.typology import DIMENSIONS

Stage = Literal["heads", "last_layer", "all"]
# Rows that are pooled at once: with features of H numbers, tens of MiB.
_POOLED_ROWS = 256


class Float32Linear(nn.Linear):
    """A linear map that autocast leaves in float32: served logits are float32, too."""

    def forward(self, features: Tensor) -> Tensor:
        kind = features.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(features)
        with torch.autocast(kind, enabled=False):
            return super().forward(features.float())


class MBTIModel(nn.Module):
    """An encoder with four binary heads; for `reader=posts` with attention over posts."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        pooling: str,
        dropout: float,
        reader: str = "windows",
        post_layers: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        hidden: int = encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        # Every layer attends alike, with a mask that broadcasts over heads and queries.
        self._is_uniform = bool(encoder._supports_attention_backend) and not layer_kinds(encoder)
        self.heads = Float32Linear(hidden, len(DIMENSIONS))
        self.post_attention = self.post_layer = None
        if reader == "posts":
            self.post_attention = Float32Linear(hidden, len(DIMENSIONS), bias=False)
            # Training starts from the mean over posts.
            nn.init.zeros_(self.post_attention.weight)
        if post_layers:
            self.post_layer = _build_post_layer(encoder, dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Outputs [B, W] of ids int64 [B, T] and a mask bool [B, T], to be pooled by `pool`.

        Args:
            input_ids: Or cached features [B, H], where the encoder is frozen.
            attention_mask: True where a token is not padding; None where none is.
            packing: Where B windows lie in ids [1, T]; see `use_packed_attention`.
        """
        if input_ids.is_floating_point():
            return self.read_features(input_ids)
        if packing is not None:
            return self.read_features(self._packed_features(input_ids, packing))
        return self.read_features(self.features(input_ids, attention_mask))

    @property
    def output_size(self) -> int:
        """W."""
        if self.post_layer is not None:
            return self.heads.in_features
        return len(DIMENSIONS) * (1 if self.post_attention is None else 2)

    def read_features(self, features: Tensor) -> Tensor:
        """Outputs [B, W] of pooled features [B, H]."""
        return features if self.post_layer is not None else self._apply_heads(features)

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        """Row logits [R, 4] of the outputs [N, W] of their windows."""
        table = groups.table(outputs)
        if self.post_layer is not None:
            padding = groups.tokens == 0
            table = self._apply_heads(self.post_layer(table, src_key_padding_mask=padding))
        return pool_table(table, groups.tokens)

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

    def _apply_heads(self, features: Tensor) -> Tensor:
        """Logits [..., 4] of features [..., H]; with attention to posts also scores: [..., 8]."""
        features = self.dropout(features)
        logits: Tensor = self.heads(features)
        if self.post_attention is None:
            return logits
        return torch.cat([logits, self.post_attention(features)], -1)

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
    tokens = config.window_tokens
    shape = encoder_config(config.encoder, vocabulary=vocabulary, max_tokens=tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = load_encoder(config.encoder, shape) if pretrained else build_encoder(shape)
        check_positions(config.encoder, encoder, tokens)
        return add_heads(encoder, config)


def add_heads(encoder: nn.Module, config: ModelConfig) -> MBTIModel:
    """The model around an encoder."""
    return MBTIModel(
        encoder,
        pooling=config.pooling,
        dropout=config.dropout,
        reader=config.encoder_reader,
        post_layers=config.post_layers,
    )


def _build_post_layer(encoder: nn.Module, dropout: float) -> nn.Module:
    """A transformer layer among posts; without positions, since posts have no order.

    It starts as the identity, or posts would first become worse than they were encoded.
    """
    config: Any = encoder.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    layer = nn.TransformerEncoderLayer(
        hidden, heads, 4 * hidden, dropout, "gelu", batch_first=True, norm_first=True
    )
    nn.init.zeros_(layer.self_attn.out_proj.weight)
    nn.init.zeros_(layer.linear2.weight)
    nn.init.zeros_(layer.linear2.bias)
    return layer


def pool_table(table: Tensor, tokens: Tensor) -> Tensor:
    """Row logits [R, 4] of a table [R, M, 4 or 8] of outputs; tokens [R, M] are 0 at gaps."""
    logits, scores = table[..., :4], table[..., 4:]
    if scores.shape[-1]:
        scores = scores.masked_fill((tokens == 0)[..., None], -torch.inf)
        weight = torch.softmax(scores, 1)
    else:
        weight = (tokens / tokens.sum(1, keepdim=True))[..., None]
    return (logits * weight).sum(1)


@torch.no_grad()
def pool_rows(
    pool: Callable[[Tensor, Groups], Tensor], outputs: Tensor, row: Indices, lengths: Indices
) -> Tensor:
    """Row logits [R, 4] of outputs [N, W], with few rows in memory at once.

    Args:
        pool: Such as `MBTIModel.pool`.
        row: Of each window, from 0 and ascending, [N]; every row has at least one.
        lengths: Tokens of each window, [N].
    """
    parts = []
    for first in range(0, int(row[-1]) + 1 if len(row) else 0, _POOLED_ROWS):
        start, end = np.searchsorted(row, (first, first + _POOLED_ROWS))
        of_part = row[start:end] - first
        groups = Groups.of(of_part, lengths[start:end], rows=int(of_part[-1]) + 1)
        parts.append(pool(outputs[start:end], groups.map(lambda t: t.to(outputs.device))))
    return torch.cat(parts) if parts else outputs.new_empty(0, len(DIMENSIONS))


def stage_of_epoch(trainable: str, epoch: int) -> Stage:
    """What an epoch (counted from 0) trains; source: the seed's fine-tuning strategies."""
    if trainable == "gradual":
        return ("heads", "last_layer", "all")[min(epoch, 2)]
    return "heads" if trainable == "heads" else "all"


def to_device(model: MBTIModel, device: torch.device) -> MBTIModel:
    """The model on a device. On a GPU, attention by cuDNN is switched off for the process.

    torch sends masked attention on Hopper and Blackwell to cuDNN, which plans anew for every shape
    of a batch: on an H200 that held up a step or a request for some 0.1 to 1 s, and batches of
    sorted lengths are of many shapes.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    return model.to(device)


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
    # Here, because a prediction by `PackedBert` need not load the models of transformers.
    from mbti_ray.model.packed_attention import PACKED_ATTENTION

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


def trained_weights(model: MBTIModel, trainable: str) -> dict[str, Tensor]:
    """The weights that a run changes; to save a frozen encoder would take longer than an epoch."""
    state = model.state_dict()
    if trainable != "heads":
        return state
    return {name: weight for name, weight in state.items() if not name.startswith("encoder.")}
