"""The reader of posts: each post encoded by itself, attention over the posts of a person."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from http_client import client_of
from torch import Tensor

from mbti_ray.config import RunConfig
from mbti_ray.config.schema import ServeConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.collate import Groups, collate
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.instances import Instances
from mbti_ray.data.users import load_users
from mbti_ray.engine.dataloader import StepBatches, StepLoader
from mbti_ray.engine.loop import run
from mbti_ray.engine.optimizer import build_optimizer
from mbti_ray.engine.step import Stepper
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import ConfigError, RunError, StoppedError
from mbti_ray.inference.evaluation import evaluate_bundle, load_evaluation_data
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes.onnx_export import export_onnx
from mbti_ray.model.classifier import MBTIModel, build_model, use_packed_attention
from mbti_ray.model.loss import build_loss
from mbti_ray.serving.app import build_api
from mbti_ray.serving.router import Router
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
POSTS = ("model.reader=posts", "model.post_tokens=24", "fit.posts=3", "optim.head_lr=0.05")
CPU = torch.device("cpu")
# float32 sums in another order; see test_engine.
_ORDER_OF_SUMS = 2e-4
PERSON = ["a quiet evening with a book", "party " * 40, "Ünïcode 🙂", "plans for the week", "tea"]
TEXTS = [PERSON, ["alone at last"], ["a", "b c", "a"], ["one more evening of this " * 12]]


@pytest.fixture(scope="module")
def posts(quick: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds configs of the reader of posts for users with 1 to 7 posts."""
    path = tmp_path_factory.mktemp("posts") / "users.csv"
    lines = ["type,posts"]
    for place, row in enumerate(builtin_rows(users=160)):
        cell = "|||".join(row.posts[: 1 + place % 7]).replace('"', "'")
        lines.append(f'{row.mbti_type},"{cell}"')
    path.write_text("\n".join(lines), "utf-8")
    return lambda *more: quick(*POSTS, f"data.source={path}", *more)


@pytest.fixture(scope="module")
def data(posts: Build, cache: Path) -> Dataset:
    return prepare_dataset(posts(), cache)


@pytest.fixture(scope="module", params=[0, 1], ids=["attention", "layer"])
def predictor(
    request: pytest.FixtureRequest, posts: Build, make_bundle: Callable[[RunConfig], Path]
) -> Predictor:
    return Predictor.load(make_bundle(posts(f"model.post_layers={request.param}")))


def attentive(config: RunConfig, data: Dataset) -> MBTIModel:
    """A model at step 0, but with attention that differs between posts."""
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    if model.post_attention is not None:
        torch.nn.init.normal_(model.post_attention.weight, generator=torch.manual_seed(3))
    return model


def load_step(config: RunConfig, data: Dataset, rows: list[int]) -> StepBatches:
    loader = StepLoader(
        Instances.of(config, data.splits["train"]),
        epoch=0,
        rank=0,
        world_size=1,
        batch_tokens=4096,
        pad_id=data.tokenizer.pad_token_id,
        device=CPU,
        packed=config.fit.attention == "packed",
    )
    return loader.load(np.array(rows))


def stepper_of(config: RunConfig, model: MBTIModel) -> Stepper:
    return Stepper(
        build_optimizer(model, config.optim),
        build_loss(config.loss, None),
        None,
        CPU,
        clip_norm=None,
        timer=ThroughputTimer(CPU, 1),
    )


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_permuting_posts_changes_nothing_but_changing_one_does(predictor: Predictor) -> None:
    orders = [PERSON, PERSON[::-1], PERSON[2:] + PERSON[:2]]
    logits = predictor.predict_logits([*orders, [*PERSON[:4], "no tea"]], whole=True).values
    torch.testing.assert_close(logits[1:3], logits[:1].expand(2, -1), atol=1e-5, rtol=0)
    assert (logits[3] - logits[0]).abs().max() > 1e-3


def test_a_person_read_next_to_others_has_the_logits_of_one_read_alone(
    predictor: Predictor,
) -> None:
    together = predictor.predict_logits(TEXTS, whole=True).values
    alone = [predictor.predict_logits([posts], whole=True).values for posts in TEXTS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_attention_has_learned_that_posts_differ(predictor: Predictor) -> None:
    attention = predictor._runtime._model.post_attention
    assert attention.weight.abs().max() > 1e-3


def test_a_person_with_one_post_equals_a_window_of_it(
    posts: Build, quick: Build, data: Dataset
) -> None:
    config = posts()
    model = attentive(config, data).eval()
    plain = quick("model.max_tokens=24").model
    windows = build_model(plain, vocabulary=len(data.tokenizer), seed=0)
    windows.load_state_dict(model.state_dict(), strict=False)
    split = data.splits["train"]
    single = split.row_index[:6]
    one = collate(split, np.arange(6))
    groups = Groups.of(np.arange(6), split.lengths[:6], rows=6)
    with torch.no_grad():
        expected = windows.eval()(one.input_ids, one.attention_mask)
        found = model.pool(model(one.input_ids, one.attention_mask), groups)
    assert len(set(single.tolist())) < 6, "windows of one row, each alone here"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_training_starts_from_the_mean_over_posts(posts: Build, data: Dataset) -> None:
    config = posts("fit.posts=null")
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0).eval()
    (batch,) = load_step(config, data, [0, 1, 2]).batches
    with torch.no_grad():
        outputs = torch.cat([model(p.input_ids, p.attention_mask) for p in batch.passes])
        pooled = model.pool(outputs, batch.groups)
    owner = batch.groups.slots // batch.groups.tokens.shape[1]
    means = torch.stack([outputs[owner == row, :4].mean(0) for row in range(3)])
    torch.testing.assert_close(pooled, means, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("attention", ["padded", "packed"])
def test_persons_with_different_counts_of_posts_have_in_one_batch_the_gradient_of_each_alone(
    posts: Build, data: Dataset, layers: int, attention: str
) -> None:
    config = posts(
        "model.dropout=0",
        f"model.post_layers={layers}",
        "fit.posts=null",
        f"fit.attention={attention}",
    )
    counts = np.bincount(data.splits["train"].row_index)
    rows = [int(np.argmax(counts)), int(np.argmin(counts)), 0, 1]
    assert len({*counts[rows].tolist()}) > 1
    gradients = []
    for groups in ([rows], [[row] for row in rows]):
        model = attentive(config, data)
        if attention == "packed":
            use_packed_attention(model)
        for group in groups:
            loss = torch.zeros(())
            for batch in load_step(config, data, group).batches:
                outputs = torch.cat(
                    [model(p.input_ids, p.attention_mask, p.packing) for p in batch.passes]
                )
                assert batch.groups is not None
                logits = model.pool(outputs, batch.groups)
                loss = loss + build_loss(config.loss, None)(logits, batch.labels).sum()
            loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert "post_attention.weight" in gradients[0]
    assert gap(*gradients) < 2e-5


class StoppingOnce(Worker):
    """Is asked to stop at its first poll."""

    def poll_interruption(self) -> Interruption | None:
        return Interruption.STOP


@pytest.mark.parametrize("more", [(), ("model.trainable=gradual",), ("model.trainable=heads",)])
def test_a_run_resumes_bit_for_bit_with_the_posts_that_it_would_have_sampled(
    posts: Build, data: Dataset, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config = posts(*more, "fit.checkpoint_steps=3", "fit.epochs=2", "fit.posts=2")
    whole = run(config, data, Worker(), score_test=False).model.state_dict()
    with pytest.raises(StoppedError):
        run(config, data, StoppingOnce(folder=tmp_path), score_test=False)
    resumed = run(config, data, Worker(folder=tmp_path), score_test=False).model.state_dict()
    assert gap(dict(whole), dict(resumed)) == 0.0


def test_out_of_memory_halves_the_persons_of_a_batch_and_does_not_change_the_step(
    posts: Build, data: Dataset
) -> None:
    config = posts("model.dropout=0")
    batches = load_step(config, data, list(range(8)))
    assert len(batches.batches) == 1
    states = []
    for limit in (1000, 3, 0):
        model = attentive(config, data)
        pool = model.pool

        def small(outputs: Tensor, groups: Groups, pool: Any = pool, limit: int = limit) -> Tensor:
            if len(groups.tokens) > limit:
                raise torch.OutOfMemoryError(f"{len(groups.tokens)} persons")
            return pool(outputs, groups)

        stepper = stepper_of(config, model)
        with mock.patch.object(model, "pool", small):
            if not limit:
                with pytest.raises(RunError, match=r"one person of \d+ tokens .*lower fit\.posts"):
                    stepper.step(model, batches, 1, lambda: None)
                return
            stepper.step(model, batches, 1, lambda: None)
        states.append(dict(model.state_dict()))
        assert stepper.halvings == (0 if limit == 1000 else 2)
        if len(states) == 2:
            assert gap(*states) < _ORDER_OF_SUMS


def test_frozen_posts_are_encoded_once_and_learn_what_the_frozen_encoder_learns(
    posts: Build, data: Dataset
) -> None:
    config = posts("model.trainable=heads", "model.dropout=0", "fit.epochs=3")
    encode = MBTIModel.features
    with mock.patch.object(MBTIModel, "features", autospec=True, side_effect=encode) as recorded:
        outcome = run(config, data, Worker(), score_test=False)
    encoded = sum(len(call.args[1]) for call in recorded.call_args_list)
    assert encoded == len(data.splits["train"]) + len(data.splits["val"])
    by_hand = run(
        config.model_copy(update={"model": config.model.model_copy(update={"trainable": "all"})}),
        data,
        Worker(),
        score_test=False,
    )
    assert outcome.progress.step == by_hand.progress.step
    start = build_model(config.model, vocabulary=len(data.tokenizer), seed=config.seed)
    changed = {
        name
        for name, value in start.state_dict().items()
        if not torch.equal(value, outcome.model.state_dict()[name])
    }
    assert changed == {"heads.weight", "heads.bias", "post_attention.weight"}


def test_a_loss_per_person_over_windows_is_that_of_pooled_logits(quick: Build, cache: Path) -> None:
    config = quick("loss.per=person", "model.max_tokens=16", "model.dropout=0", "fit.posts=null")
    data = prepare_dataset(config, cache)
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    split = data.splits["train"]
    assert len(split) > split.row_count
    sums = stepper_of(config, model)._backward(model, load_step(config, data, [0, 1, 2]))
    logits = []
    for row in range(3):
        members = np.flatnonzero(split.row_index == row)
        one = collate(split, members)
        values = model(one.input_ids, one.attention_mask)
        weight = torch.from_numpy(split.lengths[members]).float()[:, None]
        logits.append((values * weight).sum(0) / weight.sum())
    labels = torch.from_numpy(split.labels[:3]).float()
    loss = build_loss(config.loss, None)(torch.stack(logits), labels).sum()
    assert float(sums[0]) == pytest.approx(float(loss.detach()), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_reads_posts_as_torch_does_but_refuses_a_layer_among_them(
    posts: Build, make_bundle: Callable[[RunConfig], Path]
) -> None:
    bundle = make_bundle(posts())
    export_onnx(bundle)
    expected = Predictor.load(bundle).predict_logits(TEXTS, whole=True).values
    found = Predictor.load(bundle, runtime="onnx").predict_logits(TEXTS, whole=True).values
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    layered = make_bundle(posts("model.post_layers=1", "fit.epochs=1"))
    with pytest.raises(ConfigError, match=r"model\.post_layers=1 has a layer .*runtime=torch"):
        export_onnx(layered)


def test_the_service_answers_what_evaluate_scores_and_influence_encodes_nothing_again(
    predictor: Predictor, posts: Build, tmp_path: Path
) -> None:
    rows = load_users(posts().data).rows[:40]
    expected = predictor.predict([row.posts for row in rows], whole=True)
    bodies: list[dict[str, Any]] = [{"posts": [*row.posts]} for row in rows]
    several = next(body["posts"] for body in bodies if len(body["posts"]) == 7)
    encoded: list[int] = []

    async def ask() -> tuple[list[Any], int, Any]:
        with ThreadPoolExecutor(1) as executor:
            model = ServedModel(predictor, executor, ServeConfig(), tokens_per_s=1e6)
            router = Router(lambda *_: model, ServingTarget("a bundle"))
            async with client_of(build_api(router, ServeConfig())) as client:
                answers = [(await client.post("/predict", json=body)).json() for body in bodies]
                encoded.clear()
                await client.post("/predict", json={"posts": several})
                once = sum(encoded)
                encoded.clear()
                body = {"posts": several, "influence": True}
                return answers, once, (await client.post("/predict", json=body)).json()

    forward = Predictor.forward

    def recorded(self: Predictor, windows: Any) -> Tensor:
        encoded.append(len(windows))
        return forward(self, windows)

    with mock.patch.object(Predictor, "forward", recorded):
        answers, once, explained = asyncio.run(ask())
    for answer, right in zip(answers, expected, strict=True):
        assert answer["type"] == right.type
        assert answer["probabilities"] == pytest.approx(right.probabilities, abs=1e-6)
    assert sum(encoded) == once
    less = predictor.predict([several[1:]], whole=True)[0].probabilities
    full = predictor.predict([several], whole=True)[0].probabilities
    assert explained["influence"][0] == pytest.approx(
        {p: full[p] - less[p] for p in full}, abs=1e-6
    )


def test_evaluate_scores_a_bundle_of_posts_as_its_run_did(
    posts: Build, make_bundle: Callable[[RunConfig], Path], data: Dataset
) -> None:
    bundle = make_bundle(posts("scoring.baselines=false"))
    found = evaluate_bundle(bundle, load_evaluation_data(bundle, []), lambda *_: None)
    recorded = load_manifest(bundle).scores["test"]
    assert found.scores["rows"] == recorded["rows"] == data.splits["test"].row_count
    assert found.scores["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    assert found.scores["acc_mean"] == recorded["acc_mean"]


def test_soft_labels_change_what_is_learned_and_are_scored_in_every_epoch(
    posts: Build, tmp_path: Path
) -> None:
    rows = load_users(posts().data).rows
    path = tmp_path / "shares.jsonl"
    lines = []
    for place, row in enumerate(rows):
        hard = labels_of(row.mbti_type or "")
        shares = [0.9 - 0.35 * (place % 2) if pole else 0.1 for pole in hard]
        record = {"type": row.mbti_type, "posts": row.posts}
        lines.append(json.dumps(record | dict(zip("ENTJ", shares, strict=True))))
    path.write_text("\n".join(lines), "utf-8")
    found = []
    for targets in ("types", "shares"):
        config = posts(f"data.source={path}", f"loss.targets={targets}", "fit.epochs=4")
        data = prepare_dataset(config, tmp_path / "cache")
        worker = Worker()
        run(config, data, worker, score_test=False)
        assert all("rmse_shares" in record["val"] for record in worker.records)
        found.append(worker.records[-1]["val"]["rmse_shares"])
    assert found[1] < found[0], "who learns the shares is nearer to them"
