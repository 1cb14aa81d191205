"""Out of memory at every place of a run, on one rank or several: smaller batches, same weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ranks import ORDER_OF_SUMS, STEP, forced_overflows, read_few_rows, run_ranks
from torch import Tensor

from mbti_ray.config import RunConfig, config_from_dict
from mbti_ray.data.collate import Batch
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine import loop
from mbti_ray.engine.features import extract_features
from mbti_ray.engine.loop import run
from mbti_ray.engine.optimizer import allocate_moments, build_optimizer
from mbti_ray.engine.out_of_memory import unless_out_of_memory
from mbti_ray.engine.validation import Evaluator
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import RunError
from mbti_ray.model.classifier import MBTIModel, build_model

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]

# Windows that the pretended memory holds.
LIMIT = 5
PLACES = ("before", "forward", "after", "backward", "gradient", "moments", "optimizer")


class SmallMemory:
    """Pretends that memory runs out at one place of every step that is too large."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.failures = 0
        self._windows = 0
        self._build_loss = loop.build_loss

    def check(self, windows: int, place: str) -> None:
        self._windows = windows
        if place == self.place and windows > LIMIT:
            self.failures += 1
            raise torch.OutOfMemoryError(f"{windows} windows")

    def to(self, batch: Batch, device: torch.device) -> Batch:
        self.check(len(batch.weight), "before")
        return batch

    def build_model(self, *arguments: Any, **options: Any) -> MBTIModel:
        model = build_model(*arguments, **options)
        model.encoder.register_forward_hook(
            lambda _, given, output: self.check(len(output.last_hidden_state), "forward")
        )
        # The last gradient of a backward pass: all others are there.
        first = next(model.encoder.parameters())
        first.register_hook(lambda gradient: self.check(self._windows, "gradient"))
        return model

    def build_loss(self, *arguments: Any) -> Callable[[Tensor, Tensor], Tensor]:
        loss = self._build_loss(*arguments)

        def compute(logits: Tensor, labels: Tensor) -> Tensor:
            self.check(len(logits), "after")
            logits.register_hook(lambda gradient: self.check(len(gradient), "backward"))
            return loss(logits, labels)

        return compute

    def fails_once(self, original: Callable[..., Any], *, at: int, place: str) -> Any:
        calls = [0]

        def failing(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == at and place == self.place:
                self.failures += 1
                raise torch.OutOfMemoryError("an allocation")
            return original(*arguments, **options)

        return failing

    @contextmanager
    def active(self) -> Iterator["SmallMemory"]:
        adamw = torch.optim.AdamW
        zeros = self.fails_once(torch.zeros_like, at=7, place="moments")
        step = self.fails_once(adamw.step, at=1, place="optimizer")
        with (
            mock.patch.object(loop, "build_model", self.build_model),
            mock.patch.object(loop, "build_loss", self.build_loss),
            mock.patch.object(Batch, "to", lambda batch, device: self.to(batch, device)),
            mock.patch.object(torch, "zeros_like", zeros),
            mock.patch.object(adamw, "step", step),
        ):
            yield self


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def run_small(config: RunConfig, data: Dataset, place: str) -> dict[str, Tensor]:
    """The weights after a run whose memory runs out at a place, and whose loss scale overflows."""
    with SmallMemory(place).active() as memory, forced_overflows():
        outcome = run(config, data, Worker(), score_test=False)
    assert bool(memory.failures) == (place in PLACES)
    assert outcome.progress.skipped
    return dict(outcome.model.state_dict())


def run_everywhere(rank: int, tree: dict[str, Any], dataset: str) -> dict[str, dict[str, Tensor]]:
    """The weights after a run for each place; every rank runs out of memory at another one."""
    config, data = config_from_dict(tree), read_few_rows(dataset)
    places = PLACES[rank:] + PLACES[:rank]
    return {first: run_small(config, data, own) for first, own in zip(PLACES, places, strict=True)}


@pytest.fixture(scope="module")
def stages(short: Build) -> RunConfig:
    """All stages of an encoder; the last step of an epoch has fewer windows than 3 ranks."""
    return short(
        *("model.dropout=0", "model.trainable=gradual", "fit.epochs=3", f"fit.batch_size={STEP}"),
        "loss.pos_weight=[64,64,64,64]",
    )


@pytest.fixture(scope="module")
def dataset(short_data: Dataset, cache: Path) -> str:
    return str(cache / short_data.key)


@pytest.fixture(scope="module")
def alone(stages: RunConfig, dataset: str) -> dict[str, Tensor]:
    """The weights of one rank with enough memory."""
    torch.set_num_threads(1)
    return run_small(stages, read_few_rows(dataset), "nowhere")


def test_ranks_that_run_out_of_memory_anywhere_in_a_step_equal_each_other_and_one_rank(
    stages: RunConfig, dataset: str, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    tree = stages.model_dump(mode="json")
    # Of three one has nothing to do in the last step; other numbers are in `test_several_ranks`.
    found = run_ranks(run_everywhere, tmp_path, tree, dataset, world_size=3)
    for place in PLACES:
        assert all(gap(of_rank[place], found[0][place]) == 0.0 for of_rank in found), place
        assert gap(found[0][place], alone) < ORDER_OF_SUMS, place


@pytest.mark.parametrize("place", PLACES)
def test_one_rank_that_runs_out_of_memory_equals_a_rank_that_does_not(
    stages: RunConfig, dataset: str, alone: dict[str, Tensor], place: str
) -> None:
    assert gap(run_small(stages, read_few_rows(dataset), place), alone) < ORDER_OF_SUMS


def test_an_optimizer_whose_state_does_not_fit_ends_the_run_with_what_to_change(
    quick: Build, data: Dataset
) -> None:
    failure = torch.OutOfMemoryError("moments")
    with (
        mock.patch.object(torch.optim.AdamW, "step", side_effect=failure),
        pytest.raises(RunError, match=r"out of memory: AdamW's state does not fit on cpu; try"),
    ):
        run(quick("fit.epochs=1"), data, Worker(), score_test=False)


def test_moments_are_those_that_the_optimizer_would_have_made(quick: Build, data: Dataset) -> None:
    states = []
    for allocates in (False, True):
        model = build_model(quick().model, vocabulary=len(data.tokenizer), seed=0)
        optimizer = build_optimizer(model, quick().optim)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if allocates:
            allocate_moments(optimizer)
        optimizer.step()
        states.append(optimizer.state_dict()["state"])
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert state.keys() == states[1][number].keys()
        assert all(torch.equal(state[name], states[1][number][name]) for name in state)


@pytest.mark.parametrize(
    "message", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"]
)
def test_memory_errors_of_libraries_count_and_other_errors_do_not(message: str) -> None:
    def fail(error: Exception) -> None:
        raise error

    assert unless_out_of_memory(lambda: fail(RuntimeError(message))) is None
    with pytest.raises(RuntimeError, match="shape"):
        unless_out_of_memory(lambda: fail(RuntimeError("shape mismatch")))


class SmallEncoder(torch.nn.Module):
    """An encoder on a device whose memory holds only so many windows."""

    def __init__(self, encoder: torch.nn.Module, windows: int) -> None:
        super().__init__()
        self.encoder, self.windows = encoder, windows

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        if len(input_ids) > self.windows:
            raise torch.OutOfMemoryError(f"{len(input_ids)} windows")
        return self.encoder(input_ids=input_ids, **options)


def evaluator_of(config: RunConfig, data: Dataset, windows: int) -> Evaluator:
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    model.encoder = SmallEncoder(model.encoder, windows)
    return Evaluator(
        model,
        None,
        torch.device("cpu"),
        batch_tokens=config.fit.batch_size * config.model.max_tokens,
        pad_id=data.tokenizer.pad_token_id,
    )


def test_validation_that_runs_out_of_memory_divides_its_batches(
    quick: Build, data: Dataset
) -> None:
    windows = data.splits["val"]
    members = np.arange(len(windows))
    expected = evaluator_of(quick(), data, 1000).outputs(windows, members)
    small = evaluator_of(quick(), data, LIMIT)
    torch.testing.assert_close(small.outputs(windows, members), expected, atol=1e-5, rtol=0)
    with pytest.raises(RunError, match=r"out of memory: not even one window of \d+ tokens fits"):
        evaluator_of(quick(), data, 0).outputs(windows, members)


def test_frozen_features_that_run_out_of_memory_are_extracted_in_parts(
    quick: Build, data: Dataset
) -> None:
    windows = data.splits["train"]
    expected = extract_features(evaluator_of(quick(), data, 1000), windows, Worker())
    small = extract_features(evaluator_of(quick(), data, LIMIT), windows, Worker())
    torch.testing.assert_close(small, expected, atol=1e-5, rtol=0)


def test_frozen_features_that_do_not_fit_on_the_device_are_kept_on_the_cpu(
    quick: Build, data: Dataset, tmp_path: Path
) -> None:
    config = quick("model.trainable=heads", "model.dropout=0", "fit.epochs=1")
    expected = run(config, data, Worker()).model.state_dict()
    data = replace(data, folder=tmp_path)  # without the features of the first run
    zeros, failures = torch.zeros, []

    def without_features(*shape: Any, device: Any = None, **options: Any) -> Tensor:
        if device is not None and shape[0] and isinstance(shape[0], tuple):
            failures.append(shape)
            raise torch.OutOfMemoryError("features")
        return zeros(*shape, device=device, **options)

    with mock.patch.object(torch, "zeros", without_features):
        found = run(config, data, Worker()).model.state_dict()
    assert failures
    assert gap(dict(found), dict(expected)) == 0.0
