"""Presets, files and arguments resolve to one config, or to a message for every mistake."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.config import (
    PRESETS,
    RunConfig,
    StudyConfig,
    apply_overrides,
    config_from_dict,
    dump_config,
    get_value,
    load_run,
    load_study,
    override,
)
from mbti_ray.config.error_messages import config_addresses
from mbti_ray.config.resume import resumed_run, resumed_study
from mbti_ray.config.study import Choices, FloatRange, IntRange
from mbti_ray.errors import ConfigError, RunError

pytestmark = pytest.mark.unit

LR_SEARCH = "search: {optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}}\n"


@pytest.fixture
def file(tmp_path):
    """Writes a YAML file and gives its path."""

    def _file(text, name="my.yaml"):
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return _file


def mistakes_of(load, *arguments):
    """The lines with which something is refused."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value).splitlines()


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
            "fit.precision": "16-mixed",
            "fit.patience": 5,
        }
        assert {address: get_value(config, address) for address in figures} == figures
        assert config.fit.step_size == 64


def test_without_a_base_a_run_is_the_preset_quick():
    assert load_run(None) == load_run("quick")
    assert load_run("quick").model.encoder == "tiny"
    assert set(PRESETS) == {"default", "minilm", "quick"}


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
        'command line: unknown key "model.poolin"; allowed here: encoder, pooling, ',
        "command line: seed='x' is not allowed; ",
        "command line: loss.kind='bc' is not allowed; ",
    ]
    assert len(lines) == len(beginnings)
    for beginning in beginnings:
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("optim.lr=0", "allowed: a number above 0"),
        ("optim.lr=nan", "allowed: a number above 0"),
        ("optim.lr=inf", "allowed: a number above 0"),
        ("optim.lr=fast", "allowed: a number above 0"),
        ("optim.weight_decay=-1", "allowed: a number at least 0"),
        ("model.dropout=1", "allowed: a number at least 0 and below 1"),
        ("model.pooling=men", 'allowed: cls, mean; did you mean "mean"?'),
        ("fit.epochs=1.5", "allowed: a whole number at least 1"),
        ("fit.precision=17-mixed", 'did you mean "16-mixed"?'),
        ("fit.monitor=acc_eii", 'did you mean "acc_ei"?'),
        ("fit.patience=0", "allowed: a whole number at least 1, null"),
        ("data.mask=perhaps", "allowed: true, false"),
        ("loss.pos_weight=1.5", "allowed: none, balanced, a number at least 0 and at most 1, 4"),
        ("loss.pos_weight=[1, 2, 3]", "4 numbers"),
        ("scaling.use_gpu=maybe", "allowed: true, false, auto"),
        ("seed=-1", "allowed: a whole number at least 0 and below 2147483648"),
        ("name=../up", "allowed: a string matching"),
        ("serve.port=70000", "allowed: a whole number at least 1 and at most 65535"),
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
        ("preset: quik\n", 'preset "quik" does not exist; allowed: default, minilm, quick; did'),
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
    assert line.endswith('presets: default, minilm, quick; did you mean "minilm"?')
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


# Studies


def test_a_study_is_a_run_and_a_search_space(file):
    path = file(
        "preset: quick\nstudy: {trials: 3}\nsearch:\n"
        "  optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}\n"
        "  fit.batch_size: {int_low: 8, int_high: 64}\n"
        "  model.pooling: {choices: [cls, mean]}\n"
    )
    config = load_study(path, ["study.trials=7", "search.model.dropout={low: 0, high: 0.5}"])
    assert config.study.trials == 7
    assert config.search == {
        "optim.lr": FloatRange(low=1e-5, high=1e-2, log=True),
        "fit.batch_size": IntRange(int_low=8, int_high=64),
        "model.pooling": Choices(choices=("cls", "mean")),
        "model.dropout": FloatRange(low=0, high=0.5),
    }
    assert config.model == load_run("quick").model
    assert config.objective == config.fit.monitor


@pytest.mark.parametrize(
    "address",
    [
        "name",
        "storage",
        "scaling.workers",
        "scaling.use_gpu",
        "failure.max_failures",
        "serve.replicas",
        "data.source",
        "data.mask",
        "model.encoder",
        "model.max_tokens",
        "fit.monitor",
    ],
)
def test_what_is_not_learned_cannot_be_searched(file, address):
    path = file(f"preset: quick\nsearch: {{{address}: {{choices: [a, b]}}}}\n")
    (line,) = mistakes_of(load_study, path)
    assert line.startswith(f'{path}: search: "{address}" cannot be searched; allowed: seed, ')
    allowed = line.partition("allowed: ")[2]
    assert address not in allowed.split(", ")


def test_no_cluster_shape_is_ever_searchable(file):
    (line,) = mistakes_of(load_study, file("preset: quick\n"))
    allowed = line.partition("at least one of: ")[2].split(", ")
    assert "optim.lr" in allowed
    sections = {address.partition(".")[0] for address in allowed}
    assert sections == {"seed", "model", "loss", "optim", "fit"}


def test_the_message_for_an_unknown_searched_key_names_the_closest(file):
    path = file("preset: quick\nsearch: {optim.lrr: {low: 1, high: 2}}\n")
    assert mistakes_of(load_study, path) == [
        f'{path}: search: unknown key "optim.lrr"; did you mean "optim.lr"?'
    ]


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        ("model.dropout: {low: -0.1, high: 0.5}", "model.dropout=-0.1"),
        ("model.dropout: {low: 0.1, high: 1.5}", "model.dropout=1.5"),
        ("fit.batch_size: {int_low: 0, int_high: 8}", "fit.batch_size=0"),
        ("loss.pos_weight: {low: 0.0, high: 1.5}", "loss.pos_weight=1.5"),
        ("model.pooling: {choices: [cls, mean, max]}", "model.pooling='max'"),
        ("optim.lr: {low: 0.1, high: .inf}", "optim.lr=inf"),
    ],
)
def test_both_ends_of_a_range_have_to_be_allowed_values(file, space, wrong):
    path = file(f"preset: quick\nsearch: {{{space}}}\n")
    (line,) = mistakes_of(load_study, path)
    assert line.startswith(f"{path}: search: {wrong} is not allowed; ")


def test_all_mistakes_of_a_search_space_are_reported_at_once(file):
    path = file(
        "preset: quick\nsearch:\n  optim.lr: {low: -1, high: 0.1}\n  optim.lrr: {low: 0, high: 1}\n"
        "  model.dropout: {low: -1, high: 2}\n  scaling.workers: {int_low: 1, int_high: 2}\n"
    )
    lines = mistakes_of(load_study, path)
    assert len(lines) == 5
    assert all(line.startswith(f"{path}: search: ") for line in lines)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("{low: 2, high: 1}", "low must be below high, got 2.0 and 1.0"),
        ("{low: 1, high: 1}", "low must be below high"),
        ("{low: 0, high: 1, log: true}", "low must be above 0 for a log range, got 0.0"),
        ("{int_low: 3, int_high: 2}", "int_low must be below int_high, got 3, 2"),
    ],
)
def test_an_empty_range_is_refused_with_the_reason(file, space, says):
    path = file(f"preset: quick\nsearch: {{optim.lr: {space}}}\n")
    (line,) = mistakes_of(load_study, path)
    assert line.startswith(f"{path}: search.optim.lr=")
    assert says in line


@pytest.mark.parametrize(
    "space",
    [
        "{choices: [0.1]}",
        "{lo: 1, high: 2}",
        "3",
    ],
)
def test_what_is_not_a_range_is_refused_with_the_allowed_forms(file, space):
    path = file(f"preset: quick\nsearch: {{optim.lr: {space}}}\n")
    (line,) = mistakes_of(load_study, path)
    assert line.startswith(f"{path}: search.optim.lr=")
    assert "{low, high, log}, {int_low, int_high} or {choices: [...]}" in line


def test_every_value_that_a_range_can_suggest_is_allowed(file):
    impossible = []
    for address in config_addresses(RunConfig):
        path = file(f"preset: quick\nsearch: {{{address}: {{low: 1, high: 32}}}}\n")
        try:
            override(load_study(path), {address: 13.37})
        except ConfigError as error:
            if str(error).startswith("override"):
                impossible.append(address)
    assert impossible == []


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


# On disk


@st.composite
def run_configs(draw):
    numbers = st.floats(1e-12, 1e12)
    text = st.text(
        st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\ufffe\uffff"),
        min_size=1,
    )
    return override(
        RunConfig(),
        {
            "name": draw(st.one_of(st.none(), st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,9}\Z"))),
            "storage": draw(text),
            "data.source": draw(text),
            "seed": draw(st.integers(0, 2**31 - 1)),
            "optim.lr": draw(numbers),
            "optim.weight_decay": draw(numbers),
            "optim.clip_norm": draw(st.one_of(st.none(), numbers)),
            "fit.precision": draw(st.sampled_from(["32", "16-mixed", "bf16-mixed", "auto"])),
            "scaling.use_gpu": draw(st.sampled_from([True, False, "auto"])),
            "loss.pos_weight": draw(
                st.one_of(
                    st.sampled_from(["none", "balanced"]),
                    st.floats(0, 1),
                    st.lists(numbers, min_size=4, max_size=4),
                )
            ),
        },
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dumped_preset_loads_to_the_same_config(file, preset):
    config = load_run(preset, ["name=1e5", "storage=~/läufe: #1", "optim.lr=1e-17"])
    path = file(dump_config(config))
    assert load_run(path) == config
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config


def test_a_dumped_study_loads_to_the_same_study_and_reads_as_its_run(file):
    text = (
        "preset: minilm\nstudy: {objective: loss, trials: 3}\nsearch:\n"
        "  optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}\n"
        "  fit.batch_size: {int_low: 8, int_high: 64}\n"
        "  optim.head_lr: {choices: [null, 0.001]}\n"
        "  fit.patience: {choices: [1, 2, null]}\n"
    )
    config = load_study(file(text))
    path = file(dump_config(config), "config.yaml")
    assert load_study(path) == config


def test_a_dump_refers_to_no_preset(file):
    assert "preset" not in yaml.safe_load(dump_config(load_run("minilm")))


# Resuming


@pytest.fixture
def saved_run(tmp_path):
    path = tmp_path / "mine" / "config.yaml"
    path.parent.mkdir()
    path.write_text(dump_config(load_run("quick", ["name=mine", "fit.epochs=4"])), "utf-8")
    return path


@pytest.fixture
def saved_study(tmp_path, file):
    path = tmp_path / "hunt" / "config.yaml"
    path.parent.mkdir()
    path.write_text(dump_config(load_study(file("preset: quick\n" + LR_SEARCH))), "utf-8")
    return path


def test_a_run_resumes_with_the_config_that_it_started_with(saved_run):
    config = resumed_run(saved_run, None, [])
    assert type(config) is RunConfig
    assert (config.name, config.fit.epochs) == ("mine", 4)


def test_a_run_may_resume_elsewhere_and_on_more_workers(saved_run):
    config = resumed_run(
        saved_run,
        None,
        [
            "name=other",
            "storage=/elsewhere",
            "scaling.workers=4",
            "failure.max_failures=9",
            "serve.port=9000",
        ],
    )
    assert (config.storage, config.scaling.workers) == ("/elsewhere", 4)
    assert config.fit.epochs == 4


def test_a_run_cannot_become_another_and_every_difference_is_listed(saved_run):
    with pytest.raises(RunError) as caught:
        resumed_run(
            saved_run, None, ["optim.lr=0.5", "fit.epochs=5", "seed=1", "scaling.workers=2"]
        )
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{saved_run.parent}: --resume needs the config that it started")
    for difference in ("optim.lr: 0.003 -> 0.5", "fit.epochs: 4 -> 5", "seed: 0 -> 1"):
        assert difference in message
    assert "scaling" not in message


def test_a_run_does_not_resume_under_another_preset(saved_run):
    with pytest.raises(RunError, match=r"model\.encoder: 'tiny' -> 'minilm'"):
        resumed_run(saved_run, "minilm", [])


def test_repeating_what_the_config_has_is_no_change(saved_run):
    assert resumed_run(saved_run, None, ["fit.epochs=4", "optim.lr=0.003"]).fit.epochs == 4


def test_a_study_may_resume_with_more_trials(saved_study):
    config = resumed_study(saved_study, None, ["study.trials=99", "study.max_concurrent=2"])
    assert type(config) is StudyConfig
    assert config.study.trials == 99
    assert set(config.search) == {"optim.lr"}


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("search.optim.lr={low: 1.0e-5, high: 0.5, log: true}", "search.optim.lr.high: 0.01 -> "),
        ("search.model.dropout={low: 0, high: 0.5}", "search.model.dropout.low: None -> 0.0"),
        ("study.grace_epochs=3", "study.grace_epochs: 1 -> 3"),
        ("study.objective=loss", "study.objective: None -> 'loss'"),
        ("optim.warmup_steps=7", "optim.warmup_steps: 0.06 -> 7"),
    ],
)
def test_a_study_cannot_become_another(saved_study, override, difference):
    with pytest.raises(RunError) as caught:
        resumed_study(saved_study, None, [override])
    assert difference in str(caught.value)


@given(config=run_configs())
@settings(max_examples=60)
def test_any_config_survives_a_dump(config):
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ('{"optim.lr": 1}', "optim.lr=1 is not from 0.0005 to 0.01"),
        ('{"optim.lr": 0.001}', 'has no value for "model.dropout"'),
        ('{"optim.clip_norm": 1}', '"optim.clip_norm" is not searched; allowed: optim.lr'),
    ],
)
def test_a_start_point_has_to_be_inside_the_ranges(point, says):
    lines = mistakes_of(load_study, None, [f"study.start=[{point}]"])
    assert any("study.start[0]: " in line and says in line for line in lines)
