"""Export of a bundle to a folder that transformers loads: the same probabilities, no mbti_ray.

Where the architecture has a classification head that can compute ours, the folder is a plain
`...ForSequenceClassification`; otherwise it carries `transformers_model`. The temperatures are
folded into the weights, so that the sigmoid of the logits is the probability. Not kept unless it
reproduces the probabilities of the golden texts. Must not know labeled data or the command line.

Shapes: G golden texts, H hidden size, 4 dimensions in the order E, N, T, J.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from mbti_ray.data.tokenizer import Tokenizer, load_tokenizer
from mbti_ray.errors import BundleError
from mbti_ray.inference.bundle import Bundle, load_bundle, load_model
from mbti_ray.inference.hub import write_card
from mbti_ray.inference.manifest import Manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.transformers_model import MBTIConfig, MBTIForSequenceClassification
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.scores.calibration import LengthScaling
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.typology import POSITIVE_POLES

_ALLOWED_GAP = 1e-5
# tanh(s x) / s is x up to (s x)^2 / 3 of it: 1e-5 at a logit of 5. A power of two, so that scaling
# rounds nothing, and not so small that float16 has no digits left.
_TANH_SCALE = 2.0**-10
_LABELS = dict(enumerate(POSITIVE_POLES))


def export_transformers(
    folder: Path, target: Path, *, license_id: str | None = None, language: str | None = None
) -> dict[str, Any]:
    """Write a folder that transformers loads; returns its class, whether that is code in the
    folder, and the largest gap to the bundle.

    The license (as hubs abbreviate it) and the language (as an ISO 639 code) are for its card.
    Takes a bundle whose encoder reads windows from the beginning. Raises BundleError if what was
    written does not compute the same.
    """
    bundle = load_bundle(folder)
    predictor = Predictor.load(folder)
    model = load_model(bundle)
    temperature = torch.tensor(bundle.manifest.temperature)
    with torch.no_grad():
        model.heads.weight.div_(temperature[:, None])
        model.heads.bias.div_(temperature)
    length = bundle.manifest.length
    # No class of transformers has a temperature that follows the length of the text.
    exported = (None if length else _plain_model(model)) or _custom_model(model, length)
    max_tokens = bundle.manifest.model.max_tokens
    with atomic_folder(target) as staging:
        exported.save_pretrained(staging)
        tokenizer = load_tokenizer(folder, config=model.encoder.config)
        _with_special_tokens(tokenizer, max_tokens).save_pretrained(staging)
        _name_for_transformers_4(staging / "tokenizer_config.json")
        # text-embeddings-inference cuts texts at this length.
        limit = {"max_seq_length": max_tokens, "do_lower_case": False}
        (staging / "sentence_bert_config.json").write_text(json.dumps(limit), "utf-8")
        write_card(
            staging,
            folder,
            library="transformers",
            license_id=license_id,
            language=language,
            usage=_usage(bundle.manifest, exported),
        )
        gap = _largest_gap(staging, bundle, predictor)
        if not gap <= _ALLOWED_GAP:
            raise BundleError(
                f"{folder}: the exported model differs by {gap:.2g} on the golden texts, allowed "
                f"{_ALLOWED_GAP:g}; nothing was written"
            )
    has_code = isinstance(exported, MBTIForSequenceClassification)
    return {"class": type(exported).__name__, "has_code": has_code, "gap": gap}


def _usage(manifest: Manifest, exported: PreTrainedModel) -> dict[str, Any]:
    """What `transformers_usage.md` says of an exported model."""
    rules = [f"{p} {t:.3f}" for p, t in zip(POSITIVE_POLES, manifest.thresholds, strict=True)]
    has_code = isinstance(exported, MBTIForSequenceClassification)
    return {
        "bundle_id": manifest.id,
        "max_tokens": manifest.model.max_tokens,
        "has_code": has_code,
        "rules": ", ".join(rules) if manifest.thresholds != [0.5] * 4 else "",
        "abstain": manifest.abstain,
        "is_masked": manifest.mask_version > 0,
        "mask_also": list(manifest.mask_also),
        # Read in its sources: BERT and RoBERTa have classifiers there, DistilBERT has none.
        "serves": not has_code and exported.config.model_type != "distilbert",
    }


def _plain_model(model: MBTIModel) -> PreTrainedModel | None:
    """A `...ForSequenceClassification` that computes the same logits, if its head can."""
    config: Any = model.encoder.config
    if model.pooling != "cls" or config.model_type not in _HEADS:
        return None
    plain = AutoModelForSequenceClassification.from_config(_with_labels(config))
    missing, unexpected = plain.base_model.load_state_dict(model.encoder.state_dict(), strict=False)
    if unexpected or any(not name.startswith("pooler.") for name in missing):
        return None
    _set_head(plain, model.heads.weight.detach(), model.heads.bias.detach())
    return plain.eval()


# The two linear maps of a head, by architecture; between them is a ReLU, then two times a tanh.
_HEADS: dict[str, Callable[[Any], tuple[nn.Linear, nn.Linear]]] = {
    "distilbert": lambda plain: (plain.pre_classifier, plain.classifier),
    "bert": lambda plain: (plain.base_model.pooler.dense, plain.classifier),
    "roberta": lambda plain: (plain.classifier.dense, plain.classifier.out_proj),
}
_HEADS["xlm-roberta"] = _HEADS["camembert"] = _HEADS["roberta"]


def _set_head(plain: PreTrainedModel, weight: Tensor, bias: Tensor) -> None:
    """Make the head of an architecture compute the linear map to our logits."""
    first, second = _HEADS[plain.config.model_type](plain)
    if plain.config.model_type == "distilbert":
        # x is relu(x) - relu(-x).
        _set(first, torch.cat([weight, -weight]), torch.cat([bias, -bias]))
        _set(second, torch.cat([torch.eye(4), -torch.eye(4)], 1), torch.zeros(4))
    else:
        _set(first, weight * _TANH_SCALE, bias * _TANH_SCALE)
        _set(second, torch.eye(4) / _TANH_SCALE, torch.zeros(4))


@torch.no_grad()
def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set the first rows and columns of a linear map, and all else to zero."""
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight
    layer.bias[: len(bias)] = bias


def _custom_model(model: MBTIModel, length: LengthScaling | None) -> PreTrainedModel:
    """The model of `transformers_model`, whose code is saved with its weights."""
    MBTIConfig.register_for_auto_class()
    MBTIForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    encoder: Any = model.encoder.config
    shape = json.loads(encoder.to_json_string())
    config = MBTIConfig(
        encoder=shape, pooling=model.pooling, length=length.model_dump() if length else None
    )
    custom = MBTIForSequenceClassification(_with_labels(config))
    custom.encoder.load_state_dict(model.encoder.state_dict())
    custom.classifier.load_state_dict(model.heads.state_dict())
    return custom.eval()


def _with_labels(config: Any) -> Any:
    labeled = type(config).from_dict(config.to_dict())
    labeled.id2label = _LABELS
    labeled.label2id = {pole: place for place, pole in _LABELS.items()}
    labeled.problem_type = "multi_label_classification"
    return labeled


def _with_special_tokens(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    """The tokenizer with the limit of a window, adding the special tokens that windows have."""
    tokenizer.model_max_length = max_tokens
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    if tokenizer("a")["input_ids"] != [cls, *alone, sep]:
        first, last = tokenizer.cls_token, tokenizer.sep_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B {last}",
            special_tokens=[(first, cls), (last, sep)],
        )
    return tokenizer


def _name_for_transformers_4(file: Path) -> None:
    """Name the tokenizer's class and inputs so that transformers 4 knows them, too."""
    config = json.loads(file.read_text("utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = ["input_ids", "attention_mask"]
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


@torch.inference_mode()
def _largest_gap(folder: Path, bundle: Bundle, predictor: Predictor) -> float:
    """The largest difference of a probability of the golden texts, through transformers' files."""
    trusted = {"trust_remote_code": True}  # The code is our own.
    model = AutoModelForSequenceClassification.from_pretrained(folder, **trusted).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
    texts = [[golden.text] for golden in bundle.manifest.golden]
    expected = torch.sigmoid(predictor.calibrate(predictor.predict_logits(texts, whole=False)))
    gaps = []
    for golden, row in zip(bundle.manifest.golden, expected, strict=True):
        text = predictor.preprocess(golden.text)
        inputs = tokenizer(text, truncation=True, return_tensors="pt")
        gaps.append((torch.sigmoid(model(**inputs).logits[0]) - row).abs().max())
    return float(torch.stack(gaps).max())
