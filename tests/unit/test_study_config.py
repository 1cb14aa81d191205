"""Studies: the search space, its ranges and conditions, and what is refused."""

import pytest
from config_files import mistakes_of

from mbti_ray.config import RunConfig, load_run, load_study, override
from mbti_ray.config.settings import config_addresses
from mbti_ray.config.study import Choices, FloatRange, IntRange
from mbti_ray.errors import ConfigError

pytestmark = pytest.mark.unit


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
        "seed",
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
    assert line.startswith(f'{path}: search: "{address}" cannot be searched; allowed: model.')
    allowed = line.partition("allowed: ")[2]
    assert address not in allowed.split(", ")


def test_no_cluster_shape_is_ever_searchable(file):
    (line,) = mistakes_of(load_study, file("preset: quick\n"))
    allowed = line.partition("at least one of: ")[2].split(", ")
    assert "optim.lr" in allowed
    sections = {address.partition(".")[0] for address in allowed}
    assert sections == {"model", "loss", "optim", "fit"}


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


@pytest.mark.parametrize("setting", ["data.folds=3", "study.seeds=2"])
def test_trials_of_several_runs_are_refused_with_several_workers(setting):
    lines = mistakes_of(load_study, None, [setting, "study.scheduler=none", "scaling.workers=2"])
    assert "need scaling.workers=1" in "".join(lines)
    assert load_study(None, [setting, "study.scheduler=none"])


def test_a_population_needs_a_size(file):
    path = file("preset: quick\nsearch: {optim.lr: {low: 1.0e-5, high: 1.0e-2}}\n")
    budget = ["study.trials=null", "study.hours=1"]
    assert load_study(path, budget).study.trials is None
    (line,) = mistakes_of(load_study, path, [*budget, "study.scheduler=pbt"])
    assert "study.trials, the size of its population" in line


def test_the_power_and_the_weight_of_a_pole_cannot_both_be_searched(file):
    search = "loss.power.E: {low: 0.0, high: 1.0}, loss.weight.E: {low: 0.5, high: 2.0}"
    path = file(f"preset: quick\nsearch: {{{search}}}\n")
    assert mistakes_of(load_study, path) == [
        f"{path}: search: loss.power.E and loss.weight.E cannot both be searched"
    ]


@pytest.mark.parametrize(("more", "cap"), [("", None), ("optim: {warmup_cap: 0.2}\n", 0.2)])
def test_a_searched_warmup_is_not_capped_either(file, more, cap):
    search = "search: {optim.warmup_steps: {int_low: 0, int_high: 500}}\n"
    config = load_study(file(more + search))
    trial = override(config, {"optim.warmup_steps": 200})
    assert trial.optim.warmup_cap == cap
    assert trial.optim.warmup_of(500) == (200 if cap is None else 100)
