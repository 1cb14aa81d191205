"""A bundle of the reader of posts in ONNX Runtime, the service and `evaluate`; soft labels."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from http_client import client_of
from people import TEXTS
from torch import Tensor

from mbti_ray.config import RunConfig
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.users import load_users
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import ConfigError
from mbti_ray.inference.bundle_writer import _base_rates
from mbti_ray.inference.evaluation import evaluate_bundle, load_evaluation_data
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes.onnx_export import export_onnx
from mbti_ray.serving.app import build_api
from mbti_ray.serving.router import Router
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
CPU = torch.device("cpu")
# float32 sums in another order; see test_engine.
_ORDER_OF_SUMS = 2e-4


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
    posts_model: Predictor, posts: Build, tmp_path: Path
) -> None:
    rows = load_users(posts().data).rows[:40]
    expected = posts_model.predict([row.posts for row in rows], whole=True)
    bodies: list[dict[str, Any]] = [{"posts": [*row.posts]} for row in rows]
    several = next(body["posts"] for body in bodies if len(body["posts"]) == 7)
    encoded: list[int] = []

    async def ask() -> tuple[list[Any], int, Any]:
        with ThreadPoolExecutor(1) as executor:
            model = ServedModel(posts_model, {1: executor}, ServeConfig(), tokens_per_s=1e6)
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
        # Other batches, other rounding in float32.
        assert answer["probabilities"] == pytest.approx(right.probabilities, abs=1e-5)
    assert sum(encoded) == once
    less = posts_model.predict([several[1:]], whole=True)[0].probabilities
    full = posts_model.predict([several], whole=True)[0].probabilities
    assert explained["influence"][0] == pytest.approx(
        {p: full[p] - less[p] for p in full}, abs=1e-6
    )


def test_evaluate_scores_a_bundle_of_posts_as_its_run_did(
    posts: Build, make_bundle: Callable[[RunConfig], Path], posts_data: Dataset
) -> None:
    bundle = make_bundle(posts("scoring.baselines=false"))
    found = evaluate_bundle(bundle, load_evaluation_data(bundle, []), lambda *_: None)
    recorded = load_manifest(bundle).scores["test"]
    assert found.scores["rows"] == recorded["rows"] == posts_data.splits["test"].row_count
    assert found.scores["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    assert found.scores["acc_mean"] == recorded["acc_mean"]


@pytest.mark.parametrize("per", ["window", "person"])
def test_balanced_classes_assume_as_many_of_either_pole_whatever_they_are_counted_in(
    posts: Build, quick: Build, posts_data: Dataset, per: str
) -> None:
    """People of 1 to 7 posts have other shares than their posts."""
    train = posts_data.splits["train"]
    assert abs(train.labels[train.row_index].mean(0) - train.labels.mean(0)).max() > 0.01
    config = (posts if per == "person" else quick)("loss.pos_weight=balanced")
    assert _base_rates(config, posts_data) == pytest.approx([0.5] * 4)
    plain = _base_rates((posts if per == "person" else quick)(), posts_data)
    rows = train.labels if per == "person" else train.labels[train.row_index]
    assert plain == pytest.approx(rows.mean(0).tolist())


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
