"""Warm-up and rates of heads: shares, the cap, and the warning of a run that is too short."""

from pathlib import Path

import pytest

from mbti_ray.config import load_run, override
from mbti_ray.config.schema import OptimConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.summary import few_steps_warning
from mbti_ray.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("overrides", "total", "steps"),
    [
        ([], 10_000, 500),
        ([], 400, 40),
        ([], 4, 0),
        (["optim.warmup_steps=500"], 4, 500),
        (["optim.warmup_steps=0.06"], 1000, 60),
        (["optim.warmup_steps=0.5"], 10, 5),
        (["optim.warmup_steps=0"], 10, 0),
        (["optim.warmup_steps=1"], 10, 1),
        (["optim.warmup_steps=90", "optim.warmup_cap=0.2"], 100, 20),
    ],
)
def test_a_warmup_is_a_number_or_share_of_steps_and_only_the_default_is_capped(
    overrides: list[str], total: int, steps: int
) -> None:
    config = load_run("default", overrides)
    assert config.optim.warmup_of(total) == steps
    # As a worker gets it: through plain values.
    assert OptimConfig(**config.optim.model_dump()).warmup_of(total) == steps


@pytest.mark.parametrize("preset", ["quick", "minilm"])
def test_the_small_presets_warm_up_for_a_share_of_any_run(preset: str) -> None:
    optim = load_run(preset).optim
    assert [optim.warmup_of(total) for total in (4, 50, 1000)] == [0, 3, 60]


@pytest.mark.parametrize("value", ["1.5", "-1", "-0.1", "x"])
def test_a_warmup_that_is_neither_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="allowed: "):
        load_run("quick", [f"optim.warmup_steps={value}"])


def test_heads_that_train_alone_or_first_learn_at_a_thousandth_or_more() -> None:
    config = load_run("default")
    assert config.head_lr == config.optim.lr == 2e-5
    for trainable in ("heads", "gradual"):
        heads = override(config, {"model.trainable": trainable})
        assert heads.head_lr == 1e-3
        assert override(heads, {"optim.head_lr": 2e-4}).head_lr == 2e-4
        assert override(heads, {"optim.lr": 3e-2}).head_lr == 3e-2


def test_a_run_of_few_steps_is_warned_of_with_the_epochs_that_make_them_enough(
    tmp_path: Path,
) -> None:
    rows = [
        f'{t},"{t} writes row {n}"' for n in range(20) for t in ("INTJ", "ENFP", "ISFJ", "ESTP")
    ]
    source = tmp_path / "people.csv"
    source.write_text("type,posts\n" + "\n".join(rows) + "\n", "utf-8")
    config = load_run("quick", [f"data.source={source}", "fit.epochs=2", "data.unit=post"])
    data = prepare_dataset(config, tmp_path / "cache")
    warning = few_steps_warning(config, data)
    assert warning == (
        "4 optimizer steps in 2 epochs are few to learn from; fit.epochs=25 makes 50 or more"
    )
    assert few_steps_warning(override(config, {"fit.epochs": 25}), data) is None
    assert few_steps_warning(override(config, {"fit.epochs": 24}), data) is not None
