"""Writing a bundle: weights, tokenizer and manifest, with golden logits computed from the files.

The bundle appears complete, and replaces an existing one. Must not know run folders, Ray or HTTP.
"""

import hashlib
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from mbti_ray import __version__
from mbti_ray.config.schema import RunConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.instances import Instances
from mbti_ray.data.tokenizer import Tokenizer
from mbti_ray.inference.bundle import ROW_HASHES, Bundle, write_row_hashes
from mbti_ray.inference.manifest import DecisionRule, GoldenText, Manifest, write_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import load_runtime
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.encoder import BUNDLE_MODEL_TYPE
from mbti_ray.model.loss import positive_weights
from mbti_ray.model.stack import Stack
from mbti_ray.model.tfidf import TfidfModel
from mbti_ray.reports.model_card import model_card
from mbti_ray.storage.atomic import atomic_folder, write_text
from mbti_ray.storage.checksums import describe_file
from mbti_ray.typology import POSITIVE_POLES

_GOLDEN_TEXTS = 20


def write_bundle(
    folder: Path,
    *,
    config: RunConfig,
    model: MBTIModel | None,
    data: Dataset,
    scores: dict[str, Any],
    rule: DecisionRule | None = None,
    tfidf: TfidfModel | None = None,
    stack: Stack | None = None,
) -> Manifest:
    """Write a bundle, which appears complete; with a scorecard among the scores, a model card too.

    The config's reader says which of `model`, `tfidf` and `stack` there are.
    """
    info, texts = data.info, build_golden_texts()
    facts = info.as_dict() | {"bad": len(info.bad)}
    with atomic_folder(folder) as staging:
        if model is not None:
            _save_weights(staging, model, data.tokenizer)
        for part in (tfidf, stack):
            if part is not None:
                part.save(staging)
        files = {path.name: describe_file(path) for path in sorted(staging.iterdir())}
        digests = json.dumps({name: record.model_dump() for name, record in files.items()})
        bundle_id = hashlib.sha256(digests.encode()).hexdigest()[:12]
        write_row_hashes(staging, bundle_id, {n: s.texts for n, s in data.splits.items()})
        files[ROW_HASHES] = describe_file(staging / ROW_HASHES)
        manifest = Manifest(
            id=bundle_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=list(POSITIVE_POLES),
            unit=config.data.unit,
            mask_version=info.mask_version,
            mask_also=info.mask_also,
            max_windows=config.person_windows,
            model=config.model,
            data=facts,
            scores=scores,
            versions={
                "mbti_ray": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            files=files,
            config=config.model_dump(mode="json", exclude={"study", "search"}),
            golden=[GoldenText(text=text, logits=[0.0] * 4) for text in texts],
            base_rates=_base_rates(config, data),
            **(rule or DecisionRule()).model_dump(),
        )
        # Computed from the files, by the encoder that was trained.
        bundle = Bundle.read(staging, manifest)
        logits = Predictor(bundle, load_runtime(bundle, packed=False)).golden_logits().tolist()
        golden = [GoldenText(text=t, logits=row) for t, row in zip(texts, logits, strict=True)]
        manifest = manifest.model_copy(update={"golden": golden})
        write_manifest(staging, manifest)
        if "scorecard" in scores:
            card = model_card(
                bundle_id=manifest.id,
                config=config,
                data_info=facts,
                scores=scores,
                versions=manifest.versions,
            )
            write_text(staging / "card.md", card)
    return manifest


def _base_rates(config: RunConfig, data: Dataset) -> list[float]:
    """The share of each positive pole that the model's probabilities assume."""
    if config.model.has_tfidf:
        # Fitted with both poles weighing alike.
        return [0.5] * len(POSITIVE_POLES)
    # As the loss saw them: windows or persons, by their types or their shares.
    share = torch.from_numpy(Instances.of(config, data.splits["train"]).targets).double().mean(0)
    weights = positive_weights(config.loss, share)
    share = share.clamp(1e-3, 1 - 1e-3)
    # A positive that counts w times moves the odds by w.
    odds = share / (1 - share) * (1 if weights is None else weights)
    return (odds / (1 + odds)).tolist()


def _save_weights(folder: Path, model: MBTIModel, tokenizer: Tokenizer) -> None:
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config: Any = model.encoder.config
    # A bundle may not ask to run code, and needs none.
    vars(config).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)
    content = {"model_type": BUNDLE_MODEL_TYPE, "encoder": json.loads(config.to_json_string())}
    write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")
    tokenizer.save_pretrained(folder)


def build_golden_texts() -> list[str]:
    """Texts of the kinds that the service receives; synthetic, so a bundle quotes no user."""
    posts = [post for row in builtin_rows(users=_GOLDEN_TEXTS) for post in row.posts[:1]]
    shapes = ["a", "Ünïcode 🙂 and https://example.com/x?y=1", " ".join(posts)]
    return [*shapes, *posts[: _GOLDEN_TEXTS - len(shapes)]]
