"""Four letters from text: an encoder with mean or first-token pooling and four binary heads.

A folder that `python -m mbti_ray.export --to hf` writes carries a copy of this file where
transformers has no class of this shape, so it must import torch and transformers only.

Legend: B texts, T tokens, H hidden size, 4 labels in the order E, N, T, J.
"""

from typing import Any

import torch
from torch import nn

# PretrainedConfig: as transformers 4 calls it, too.
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MBTIConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration: that of the encoder, as a mapping, and how its tokens are pooled.

    `length` has the slope of each label and the tokens, `low` to `high`, between which its logits
    are divided by `(tokens / reference) ** slope`.
    """

    model_type = "mbti_ray"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        pooling: str = "mean",
        length: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "distilbert"}
        self.pooling = pooling
        self.length = length
        super().__init__(**options)


class MBTIForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """Four logits of a text; their sigmoid is the probability of E, N, T and J."""

    config_class = MBTIConfig

    def __init__(self, config: MBTIConfig) -> None:
        super().__init__(config)
        shape = AutoConfig.for_model(**config.encoder)
        self.encoder = AutoModel.from_config(shape)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.register_module("pooler", None)
        self.classifier = nn.Linear(shape.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, 4] of ids [B, T]; with labels [B, 4] also the loss."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.config.pooling == "cls":
            pooled = states[:, 0]
        else:
            weight = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weight).sum(1) / weight.sum(1)
        logits = self.classifier(pooled)
        if length := self.config.length:
            tokens = mask.sum(1).clamp(length["low"], length["high"]) / length["reference"]
            logits = logits / tokens[:, None] ** torch.tensor(length["slope"]).to(logits)
        loss = None
        if labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return SequenceClassifierOutput(loss=loss, logits=logits)
