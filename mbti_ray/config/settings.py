"""What the settings are: address, allowed values, default and meaning of each, from the schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

# What other libraries call a setting, by its name there.
_OTHER_NAMES = {
    "optim.lr": "learning_rate max_lr",
    "optim.warmup_steps": "warmup num_warmup_steps warmup_ratio",
    "optim.clip_norm": "max_grad_norm gradient_clip_val",
    "fit.epochs": "num_train_epochs max_epochs num_epochs n_epochs",
    "fit.batch_size": "per_device_train_batch_size train_batch_size bs",
    "fit.accumulate": "gradient_accumulation_steps accumulate_grad_batches",
    "fit.patience": "early_stopping_patience early_stopping",
    "fit.monitor": "metric metric_for_best_model",
    "fit.precision": "fp16 bf16 amp",
    "fit.gradient_checkpointing": "grad_checkpointing",
    "fit.tracker": "report_to logger",
    "model.encoder": "model model_name model_name_or_path backbone",
    "model.max_tokens": "max_length max_len max_seq_length",
    "model.trainable": "freeze",
    "data.source": "data dataset csv file path train_file input",
    "data.test_share": "test_size",
    "data.val_share": "val_size validation_split",
    "seed": "random_state random_seed",
    "storage": "output output_dir storage_path",
    "name": "run_name experiment_name study_name",
    "scaling.workers": "num_workers nproc_per_node",
    "scaling.use_gpu": "device gpu cuda accelerator",
    "scaling.gpus": "num_gpus gpus_per_trial",
    "scaling.cpus": "num_cpus threads num_threads cpus_per_trial",
    "study.trials": "n_trials num_trials num_samples",
    "study.hours": "timeout time_budget time_budget_s",
    "study.objective": "objectives",
    "study.max_concurrent": "max_concurrent_trials n_jobs",
    "serve.replicas": "num_replicas",
}


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted address, its values in words, and its default as JSON writes it."""

    key: str
    allowed: str
    default: str
    meaning: str


@cache
def settings_of(
    schema: type[BaseModel], prefix: str = "", meaning: str | None = None
) -> tuple[Setting, ...]:
    """All settings of a config class, in the order of the schema.

    A key without a meaning of its own has that of its section.
    """
    found: list[Setting] = []
    properties = schema.model_json_schema().get("properties", {})
    for name, field in schema.model_fields.items():
        words = field.description or meaning
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += settings_of(field.annotation, f"{prefix}{name}.", words)
            continue
        allowed = _allowed(properties[name])
        default = field.get_default(call_default_factory=True, validated_data={})
        plain = json.dumps(list(default) if isinstance(default, tuple) else default)
        found.append(Setting(prefix + name, allowed, plain, " ".join((words or "").split())))
    return tuple(found)


def config_addresses(schema: type[BaseModel]) -> list[str]:
    """All dotted addresses of a config class, in the order of the schema."""
    return [setting.key for setting in settings_of(schema)]


def address_of(name: str, known: Sequence[str]) -> str | None:
    """The address of the setting with this last part, or that other libraries call so."""
    leaf = name.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == leaf]
    other = [k for k, names in _OTHER_NAMES.items() if k in known and leaf in names.split()]
    return next(iter(same + other), None)


def _allowed(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema lets through, in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_allowed(part) for part in schema["anyOf"]))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if schema.get("maxLength") == 1:
        return "one character"
    kind = str(schema.get("type", "mapping"))
    if kind == "array":
        each = schema.get("prefixItems", ())
        count = f"{len(each)}, each " if each else ""
        kind = _allowed((each or [schema.get("items", {})])[0])
        return f"list of {count}{'mappings' if kind == 'mapping' else kind}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _SIGNS.items() if key in schema]
    return " ".join([_KINDS.get(kind, kind), ", ".join(bounds)]).strip()


_SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_SIGNS |= {"pattern": "of the pattern"}
_KINDS = {"string": "text", "boolean": "true, false", "null": "null", "object": "mapping"}
