"""Presets, files and arguments resolve to one config, or to a message for every mistake."""

import pytest
from config_files import LR_SEARCH, mistakes_of

from mbti_ray.config import (
    PRESETS,
    RunConfig,
    apply_overrides,
    get_value,
    load_run,
    load_study,
    override,
)
from mbti_ray.config.settings import config_addresses
from mbti_ray.errors import ConfigError

pytestmark = pytest.mark.unit


# Resolving


def test_the_preset_default_and_the_schema_have_the_values_of_the_seed():
    for config in (load_run("default"), RunConfig()):
        figures = {
            "model.encoder": "distilbert-base-uncased",
            "model.pooling": "cls",
            "model.dropout": 0.1,
            "model.trainable": "all",
            "loss.kind": "bce",
            "loss.pos_weight": "none",
            "loss.gamma": 2.0,
            "optim.lr": 2e-5,
            "optim.head_lr": None,
            "optim.weight_decay": 0.01,
            "optim.warmup_steps": 500,
            "fit.epochs": 10,
            "fit.batch_size": 16,
            "fit.accumulate": 4,
            "fit.precision": "auto",
            "fit.patience": 5,
        }
        assert {address: get_value(config, address) for address in figures} == figures
        assert config.fit.step_size == 64


def test_without_a_base_a_run_is_the_preset_quick():
    assert load_run(None) == load_run("quick")
    assert load_run("quick").model.encoder == "tiny"
    assert {"default", "minilm", "quick"} <= set(PRESETS)


def test_a_file_overrides_its_preset_and_the_command_line_overrides_both(file):
    path = file("preset: quick\noptim: {lr: 0.5, head_lr: 0.7}\nfit: {epochs: 4}\n")
    config = load_run(path, ["fit.epochs=9", "optim.lr=3e-5"])
    quick = load_run("quick")
    assert (config.optim.lr, config.optim.head_lr, config.fit.epochs) == (3e-5, 0.7, 9)
    assert config.optim.warmup_steps == quick.optim.warmup_steps != RunConfig().optim.warmup_steps
    assert config.model == quick.model
    assert config.loss == RunConfig().loss


def test_a_file_without_a_preset_is_based_on_the_schema(file):
    assert load_run(file("optim: {lr: 0.5}")).optim.warmup_steps == 500
    assert load_run(file("")) == RunConfig()


def test_the_last_of_equal_arguments_wins():
    assert load_run("quick", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("optim.lr=3e-5", 3e-5),
        ("optim.head_lr=null", None),
        ("fit.precision=32", "32"),
        ("fit.patience=null", None),
        ("data.mask=false", False),
        ("scaling.use_gpu=true", True),
        ("scaling.use_gpu=auto", "auto"),
        ("loss.pos_weight=balanced", "balanced"),
        ("loss.pos_weight=0.5", 0.5),
        ("loss.pos_weight=[1, 3, 1, 0.5]", (1, 3, 1, 0.5)),
        ("name=2026", "2026"),
        ("data.source=a=b.csv", "a=b.csv"),
        ("model.encoder=no", "no"),
    ],
)
def test_an_argument_is_cast_to_the_type_of_its_setting(argument, value):
    config = load_run("quick", [argument])
    got = get_value(config, argument.partition("=")[0])
    assert got == value
    assert type(got) is type(value)


def test_a_file_may_write_precision_and_names_as_numbers(file):
    config = load_run(file("name: 2026\nfit: {precision: 32}\n"))
    assert (config.name, config.fit.precision) == ("2026", "32")


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_run("quick").optim.lr = 1


def test_every_address_that_others_rely_on_exists():
    relied_on = {
        *("name", "storage", "seed", "data.source", "data.unit", "data.split_by", "data.mask"),
        *("model.encoder", "model.pooling", "model.dropout", "model.trainable"),
        *("loss.kind", "loss.pos_weight", "loss.gamma"),
        *("optim.lr", "optim.weight_decay", "optim.warmup_steps"),
        *("fit.epochs", "fit.batch_size", "fit.accumulate", "fit.precision", "fit.patience"),
        *("scaling.workers", "scaling.use_gpu", "failure.max_failures", "serve.runtime"),
    }
    assert relied_on <= set(config_addresses(RunConfig))


# Refusing


def test_every_mistake_is_reported_at_once_with_its_origin(file):
    path = file("preset: quick\noptim: {lr: -1, lrr: 2}\nfit: {epochs: 0}\n")
    lines = mistakes_of(load_run, path, ["model.poolin=cls", "seed=x", "loss.kind=bc", "nonsense"])
    beginnings = [
        'command line: "nonsense" is neither a preset, a file nor key=value; presets: default, ',
        f"{path}: optim.lr=-1 is not allowed; ",
        f'{path}: unknown key "optim.lrr"; allowed here: lr, ',
        f"{path}: fit.epochs=0 is not allowed; ",
        'command line: unknown key "model.poolin"; allowed here: ',
        "command line: seed='x' is not allowed; ",
        "command line: loss.kind='bc' is not allowed; ",
    ]
    assert len(lines) == len(beginnings)
    for beginning in beginnings:
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("optim.lr=0", "allowed: number > 0"),
        ("optim.lr=nan", "allowed: number > 0"),
        ("optim.lr=inf", "allowed: number > 0"),
        ("optim.lr=fast", "allowed: number > 0"),
        ("optim.weight_decay=-1", "allowed: number >= 0"),
        ("model.dropout=1", "allowed: number >= 0, < 1"),
        ("model.pooling=men", 'allowed: cls, mean; did you mean "mean"?'),
        ("fit.epochs=1.5", "allowed: integer >= 1"),
        ("fit.precision=17-mixed", 'did you mean "16-mixed"?'),
        ("fit.monitor=acc_eii", 'did you mean "acc_ei"?'),
        ("fit.patience=0", "allowed: integer >= 1 or null"),
        ("data.mask=perhaps", "allowed: true, false"),
        (
            "loss.pos_weight=1.5",
            "allowed: none, balanced or number >= 0, <= 1 or list of 4, each number > 0",
        ),
        ("loss.pos_weight=[1, 2, 3]", "or list of 4, each number > 0"),
        ("scaling.use_gpu=maybe", 'allowed: true, false or "auto"'),
        ("seed=-1", "allowed: integer >= 0, < 2147483648"),
        ("name=../up", "allowed: text of the pattern"),
        ("data.separator=||", "allowed: one character or null"),
        ("serve.port=70000", "allowed: integer >= 1, <= 65535"),
    ],
)
def test_the_message_for_a_wrong_value_lists_what_is_allowed(argument, says):
    (line,) = mistakes_of(load_run, "quick", [argument])
    address = argument.partition("=")[0]
    assert line.startswith(f"command line: {address}=")
    assert " is not allowed; allowed: " in line
    assert says in line


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("optim.lrr=1", 'did you mean "optim.lr"?'),
        ("optim.learning_rate=1", "allowed here: lr, head_lr, weight_decay, layer_decay"),
        ("sed=1", 'did you mean "seed"?'),
        ("lr=1", 'did you mean "optim.lr"?'),
        ("optm.lr=1", 'did you mean "optim.lr"?'),
        ("study.trials=3", 'unknown key "study'),
    ],
)
def test_the_message_for_an_unknown_key_names_the_closest_or_what_is_allowed(argument, says):
    (line,) = mistakes_of(load_run, "quick", [argument])
    assert line.startswith("command line: unknown key ")
    assert says in line


@pytest.mark.parametrize("argument", ["optim={lr: -1}", "storage.x=1", "data.split_by=post"])
def test_a_mistake_on_the_command_line_is_not_blamed_on_the_preset(argument):
    (line,) = mistakes_of(load_run, "quick", [argument])
    assert line.startswith("command line: ")


def test_a_value_has_no_keys():
    (line,) = mistakes_of(load_run, "quick", ["optim.lr.x=1"])
    assert line == 'command line: "optim.lr.x=1": "lr" is a value and has no keys'


def test_broken_yaml_in_an_argument_or_file_is_one_line(file):
    (line,) = mistakes_of(load_run, "quick", ["loss.pos_weight=[1"])
    assert line.startswith('command line: "loss.pos_weight=[1": ')
    path = file("optim: {lr: 1\nfit: [")
    (line,) = mistakes_of(load_run, path)
    assert line.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n", "contains a list; allowed: a mapping of settings"),
        (
            "preset: quik\n",
            'preset "quik" does not exist; allowed: default, minilm, posts, quick; did',
        ),
        ("model: 5\n", "model=5 is not allowed"),
        ("1: 2\n", "1="),
    ],
)
def test_a_file_that_is_not_a_config_is_refused_by_its_name(file, text, says):
    path = file(text)
    (line,) = mistakes_of(load_run, path)
    assert line.startswith(f"{path}: {says}")


def test_the_message_for_a_missing_base_names_the_closest_preset(tmp_path):
    (line,) = mistakes_of(load_run, "minlm")
    assert line.endswith('presets: default, minilm, posts, quick; did you mean "minilm"?')
    path = str(tmp_path / "no.yaml")
    assert mistakes_of(load_run, path) == [f"{path}: no such file; presets: {', '.join(PRESETS)}"]
    (line,) = mistakes_of(load_run, str(tmp_path))
    assert "neither a preset nor a .yaml file" in line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.val_share=0.45", "data.test_share=0.45"], "leave less than 0.2 to train on"),
        (["data.split_by=post"], "it needs data.unit=post"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(overrides, says):
    (line,) = mistakes_of(load_run, "quick", overrides)
    assert says in line
    assert load_run("quick", ["data.split_by=post", "data.unit=post"]).data.unit == "post"


# One run of a study


def test_override_replaces_values_and_drops_the_study(file):
    study = load_study(file("preset: quick\n" + LR_SEARCH))
    config = override(study, {"optim.lr": 0.25, "model.pooling": "cls"})
    assert type(config) is RunConfig
    assert (config.optim.lr, config.model.pooling) == (0.25, "cls")
    assert config.optim.warmup_steps == study.optim.warmup_steps
    assert study.optim.lr != 0.25


def test_override_validates_the_values():
    with pytest.raises(ConfigError, match=r"override: optim\.lr=-1 is not allowed"):
        override(load_run("quick"), {"optim.lr": -1})
    with pytest.raises(ConfigError, match="unknown key"):
        override(load_run("quick"), {"optim.lrr": 1})


def test_a_command_accepts_its_own_overrides_only():
    config = load_run("quick")
    changed = apply_overrides(config, ["data.source=x.csv"], allowed=("data.source",))
    assert changed.data.source == "x.csv"
    with pytest.raises(ConfigError, match=r'"optim\.lr" is not accepted here; allowed: data\.so'):
        apply_overrides(config, ["optim.lr=1"], allowed=("data.source",))
