"""BERT and DistilBERT in plain torch, to predict on a CPU: windows in one row, without padding.

A layer takes fewer operations than that of transformers, whose modules take seconds to import. The
golden texts of a bundle hold it to the encoder that was trained. Must not know heads or files.

Sources: Devlin et al. 2019, "BERT"; Sanh et al. 2019, "DistilBERT". Legend: T tokens of all
windows, H hidden size, A attention heads, D dimensions of a head.
"""

from collections.abc import Mapping
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from mbti_ray.data.collate import Packing

Shape = Mapping[str, Any]
State = Mapping[str, Tensor]

_OWN_PARTS = ("out", "attention_norm", "up", "down", "norm")
# By model type, what transformers calls the sizes, the layers, and the parts of a layer.
_SIZES = {
    "bert": ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers"),
    "distilbert": ("dim", "n_heads", "hidden_dim", "n_layers"),
}
_LAYERS = {"bert": "encoder.layer", "distilbert": "transformer.layer"}
_ATTENTION = {
    "bert": [f"attention.self.{name}" for name in ("query", "key", "value")],
    "distilbert": [f"attention.{name}_lin" for name in "qkv"],
}
_PARTS = {
    "bert": "attention.output.dense attention.output.LayerNorm intermediate.dense output.dense "
    "output.LayerNorm",
    "distilbert": "attention.out_lin sa_layer_norm ffn.lin1 ffn.lin2 output_layer_norm",
}


def is_packable(shape: Shape) -> bool:
    """Whether `PackedBert` is the encoder of a configuration of transformers."""
    is_gelu = "gelu" in (shape.get("hidden_act"), shape.get("activation"))
    return shape["model_type"] in _SIZES and is_gelu and not shape.get("is_decoder")


class _Unset:
    def reset_parameters(self) -> None:
        """Nothing: the weights are loaded."""


class _Linear(_Unset, nn.Linear): ...


class _Embedding(_Unset, nn.Embedding): ...


class PackedBert(nn.Module):
    """An encoder as `MBTIModel` calls it with a packing."""

    # How those of transformers say whether their attention can be replaced.
    _supports_attention_backend = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size, heads, inner, layers = (shape[name] for name in _SIZES[shape["model_type"]])
        # What a model reads of the configuration of its encoder.
        self.config = SimpleNamespace(hidden_size=size, num_attention_heads=heads)
        eps = shape.get("layer_norm_eps", 1e-12)
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": _Embedding(shape["vocab_size"], size),
                "position_embeddings": _Embedding(shape["max_position_embeddings"], size),
                "LayerNorm": nn.LayerNorm(size, eps),
            }
        )
        self.layers = nn.ModuleList(_Layer(size, heads, inner, eps) for _ in range(layers))

    def forward(
        self, input_ids: Tensor, attention_mask: None, position_ids: Tensor, packing: Packing
    ) -> SimpleNamespace:
        """`last_hidden_state` [1, T, H] of ids [1, T]."""
        read = self.embeddings
        states = read["word_embeddings"](input_ids[0])
        states = read["LayerNorm"](states + read["position_embeddings"](position_ids[0]))
        groups, start = [], 0
        for length, group in groupby(packing.lengths):
            count = len([*group])
            groups.append((start, count, length))
            start += count * length
        for layer in self.layers:
            states = layer(states, groups)
        return SimpleNamespace(last_hidden_state=states[None])


class _Layer(nn.Module):
    def __init__(self, size: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = _Linear(size, 3 * size), _Linear(size, size)
        self.up, self.down = _Linear(size, inner), _Linear(inner, size)
        self.attention_norm, self.norm = nn.LayerNorm(size, eps), nn.LayerNorm(size, eps)

    def forward(self, states: Tensor, groups: list[tuple[int, int, int]]) -> Tensor:
        """States [T, H]; each group is its first token, its windows, and the tokens of each."""
        parts = self.qkv(states).view(len(states), 3, self.heads, -1).unbind(1)
        attended = []
        for start, count, length in groups:
            end = start + count * length
            # [windows, A, tokens, D]
            q, k, v = (p[start:end].unflatten(0, (count, length)).transpose(1, 2) for p in parts)
            of_group = scaled_dot_product_attention(q, k, v)
            attended.append(of_group.transpose(1, 2).reshape(end - start, -1))
        states = self.attention_norm(states + self.out(torch.cat(attended)))
        normed: Tensor = self.norm(states + self.down(gelu(self.up(states))))
        return normed


def packed_state(state: State, shape: Shape) -> dict[str, Tensor]:
    """The weights of a model with transformers' encoder, by the names of one with `PackedBert`."""
    kind = shape["model_type"]
    # Copies: those of a file lie in it, which may be replaced.
    renamed = {name: weight.clone() for name, weight in state.items()}
    if (types := "encoder.embeddings.token_type_embeddings.weight") in state:
        # A text is of the first type.
        name = "encoder.embeddings.position_embeddings.weight"
        renamed[name] = state[name] + renamed.pop(types)[0]
    parts = {"qkv": _ATTENTION[kind]}
    parts |= {o: [t] for o, t in zip(_OWN_PARTS, _PARTS[kind].split(), strict=True)}
    for layer in range(shape[_SIZES[kind][-1]]):
        for own, theirs in parts.items():
            for what in ("weight", "bias"):
                names = [f"encoder.{_LAYERS[kind]}.{layer}.{name}.{what}" for name in theirs]
                joined = torch.cat([renamed.pop(name) for name in names])
                renamed[f"encoder.layers.{layer}.{own}.{what}"] = joined
    return renamed
