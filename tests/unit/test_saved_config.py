"""Saving a config, and what may change when a run or study resumes."""

import pytest
import yaml
from config_files import LR_SEARCH
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.config import (
    PRESETS,
    RunConfig,
    StudyConfig,
    config_from_dict,
    dump_config,
    load_run,
    load_study,
    override,
)
from mbti_ray.config.resume import describe_schedule_change, load_resumed
from mbti_ray.errors import RunError

pytestmark = pytest.mark.unit


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
    config = load_resumed(load_run, saved_run, None, [])
    assert type(config) is RunConfig
    assert (config.name, config.fit.epochs) == ("mine", 4)


def test_a_run_may_resume_elsewhere_and_on_more_workers(saved_run):
    config = load_resumed(
        load_run,
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
        load_resumed(
            load_run,
            saved_run,
            None,
            ["optim.lr=0.5", "fit.epochs=5", "seed=1", "scaling.workers=2"],
        )
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{saved_run.parent}: --resume needs the config that it started")
    for difference in ("optim.lr: 0.003 -> 0.5", "fit.epochs: 4 -> 5", "seed: 0 -> 1"):
        assert difference in message
    assert "scaling" not in message


def test_a_run_does_not_resume_under_another_preset(saved_run):
    with pytest.raises(RunError, match=r"model\.encoder: 'tiny' -> 'minilm'"):
        load_resumed(load_run, saved_run, "minilm", [])


def test_repeating_what_the_config_has_is_no_change(saved_run):
    assert (
        load_resumed(load_run, saved_run, None, ["fit.epochs=4", "optim.lr=0.003"]).fit.epochs == 4
    )


def test_a_run_may_resume_with_more_epochs_and_the_change_of_its_schedule_is_described(saved_run):
    longer = load_resumed(load_run, saved_run, None, ["fit.epochs=9"])
    assert longer.fit.epochs == 9
    change = str(describe_schedule_change(saved_run, longer))
    assert "fit.epochs: 4 -> 9; the learning rate" in change
    same = load_resumed(load_run, saved_run, None, [])
    assert describe_schedule_change(saved_run, same) is None


@pytest.mark.parametrize("more", ["fit.epochs=3", "optim.lr=0.1", "fit.batch_size=8"])
def test_more_epochs_do_not_let_a_run_become_another(saved_run, more):
    with pytest.raises(RunError, match=more.partition("=")[0].replace(".", r"\.")):
        load_resumed(load_run, saved_run, None, ["fit.epochs=9", more])


def test_a_study_cannot_resume_with_more_epochs_which_its_trials_did_not_have(saved_study):
    with pytest.raises(RunError, match=r"fit\.epochs: 6 -> 9"):
        load_resumed(load_study, saved_study, None, ["fit.epochs=9"])


def test_folds_cannot_resume_with_more_epochs_which_finished_ones_did_not_have(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(load_run("quick", ["data.folds=3", "fit.epochs=4"])), "utf-8")
    with pytest.raises(RunError, match=r"fit\.epochs: 4 -> 9"):
        load_resumed(load_run, path, None, ["fit.epochs=9"])


def test_a_study_may_resume_with_more_trials(saved_study):
    config = load_resumed(
        load_study, saved_study, None, ["study.trials=99", "study.max_concurrent=2"]
    )
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
        load_resumed(load_study, saved_study, None, [override])
    assert difference in str(caught.value)


@given(config=run_configs())
@settings(max_examples=60)
def test_any_config_survives_a_dump(config):
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config
