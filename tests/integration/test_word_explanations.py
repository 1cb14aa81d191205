"""`"explain": "words"` over HTTP, with a real model: true, bounded, and out of the others' way."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_client import client_of

from mbti_ray.config import RunConfig
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.text import has_content
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving import word_explanations
from mbti_ray.serving.app import build_api
from mbti_ray.serving.router import Router
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget

pytestmark = pytest.mark.integration

TEXT = "As an INTJ I'd rather stay in, with a well-read friend: quiet evenings!"
Main = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture
def model(bundle: Path, executor: ThreadPoolExecutor) -> ServedModel:
    config = ServeConfig(batch_tokens=128)
    return ServedModel(Predictor.load(bundle), {1: executor}, config, tokens_per_s=1e5)


def serve(model: ServedModel, main: Main) -> Any:
    async def run() -> Any:
        router = Router(lambda *_: model, ServingTarget("here"))
        async with client_of(build_api(router, ServeConfig())) as client:
            return await main(client)

    return asyncio.run(run())


def post(model: ServedModel, *bodies: Any) -> list[httpx.Response]:
    async def main(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/predict", json=body) for body in bodies]

    found: list[httpx.Response] = serve(model, main)
    return found


def test_the_influence_of_a_word_is_the_difference_to_the_answer_without_it(
    model: ServedModel,
) -> None:
    (response,) = post(model, {"inputs": TEXT, "explain": "words"})
    answer = response.json()
    (read,) = answer["read"]
    words = {read["text"][w["start"] : w["end"]]: w for w in read["words"]}
    assert [*words] == [
        *("As", "an", "I'd", "rather", "stay", "in", "with", "a", "well-read", "friend"),
        *("quiet", "evenings"),
    ]
    without = TEXT.replace("well-read", "")
    plain, other = (
        r.json()["probabilities"] for r in post(model, *({"inputs": t} for t in (TEXT, without)))
    )
    assert answer["probabilities"] == pytest.approx(plain, abs=1e-6)
    for pole, p in plain.items():
        assert words["well-read"][pole] == pytest.approx(p - other[pole], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में, ok❤️ 👨‍👩‍👧!", ["हिन्दी", "में", "ok", "❤️", "👨‍👩‍👧"]),
        ("我喜欢 tea、北京", ["我", "喜", "欢", "tea", "北", "京"]),
        ("l’été, rock'n'roll: 3 INTJs", ["l’été", "rock'n'roll", "3"]),
    ],
)
def test_words_are_those_that_people_see_in_any_script(
    model: ServedModel, text: str, words: list[str]
) -> None:
    (response,) = post(model, {"inputs": text, "explain": "words"})
    (read,) = response.json()["read"]
    assert [read["text"][w["start"] : w["end"]] for w in read["words"]] == words


def test_words_of_a_reader_of_posts_are_weighed_within_all_posts(
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
    executor: ThreadPoolExecutor,
) -> None:
    config = quick("model.reader=posts", "model.post_layers=1", "fit.epochs=1")
    predictor = Predictor.load(make_bundle(config))
    model = ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e5)
    posts = ["a quiet evening", "we met friends", "so"]
    (response,) = post(model, {"posts": posts, "explain": "words"})
    full, without = predictor.predict([posts, ["a quiet", *posts[1:]]], whole=True)
    (word,) = (w for w in response.json()["read"][0]["words"] if w["start"] == 8)
    for pole, p in full.probabilities.items():
        assert word[pole] == pytest.approx(p - without.probabilities[pole], abs=1e-5)


def test_of_several_posts_those_that_matter_most_are_explained(model: ServedModel) -> None:
    posts = [" ".join(f"{name}{n}" for n in range(150)) for name in ("list", "party")] + ["so"]
    explained, influenced = post(
        model, {"posts": posts, "explain": "words"}, {"posts": posts, "influence": True}
    )
    reads = explained.json()["read"]
    change = [max(map(abs, post.values())) for post in influenced.json()["influence"]]
    most = max(range(3), key=change.__getitem__)
    assert reads[most]["words"]
    # Two posts of 150 words are too many for one request.
    assert sum(len(read.get("words") or ()) for read in reads) <= 256
    assert not all(read.get("words") for read in reads)


def test_a_text_with_too_many_words_or_tokens_is_refused_in_a_sentence(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"inputs": "word " * 257, "explain": "words"}
    (refused,) = post(model, long)
    assert refused.status_code == 413
    assert "257 words or more; allowed" in refused.json()["error"]["message"]
    monkeypatch.setattr("mbti_ray.serving.served_model.MAX_TOKENS_AGAIN", 50)
    (refused,) = post(model, {"inputs": TEXT, "explain": "words"})
    assert refused.status_code == 413
    assert "tokens again; allowed: 50; send less text" in refused.json()["error"]["message"]


def test_a_long_text_is_not_cleaned_again_for_each_word(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(text: str) -> bool:
        read.append(len(text))
        return has_content(text)

    monkeypatch.setattr(word_explanations, "has_content", counted)
    text = "INTJ " * 2800 + "a book " * 100
    assert post(model, {"inputs": text, "explain": "words"})[0].status_code == 200
    (refused,) = post(model, {"inputs": text * 2, "explain": "words"})
    assert "characters; allowed with" in refused.json()["error"]["message"]
    # It took 0.6 s, in which nobody else was answered.
    assert sum(read) < 2 * len(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("\u00e9t\u00e9", 0), ("\u00e9t\u00e9!", 1), ("\u00e9 \u3164", 1), ("! \u3164", 1)],
)
def test_a_word_counts_if_something_is_left_without_it(
    model: ServedModel, text: str, words: int
) -> None:
    (response,) = post(model, {"inputs": text, "explain": "words"})
    assert len(response.json()["read"][0]["words"]) == words


def test_while_words_are_explained_others_are_answered_and_a_second_explanation_is_429(
    model: ServedModel, executor: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    body = {"inputs": TEXT, "explain": "words"}

    async def main(client: httpx.AsyncClient) -> list[int]:
        await client.post("/predict", json={"inputs": TEXT})
        explaining = asyncio.create_task(client.post("/predict", json=body))
        while model._explanations.free:
            await asyncio.sleep(0)
        executor.submit(gate.wait, 10)
        health = await client.get("/health")
        second = asyncio.create_task(client.post("/predict", json=body))
        plain = asyncio.create_task(client.post("/predict", json={"inputs": "a book"}))
        await asyncio.sleep(0.05)
        gate.set()
        # Before the explanation, which is computed in many small parts.
        await asyncio.wait({explaining, plain}, return_when=asyncio.FIRST_COMPLETED)
        assert plain.done()
        assert not explaining.done()
        responses = [health, await second, await plain, await explaining]
        return [response.status_code for response in responses]

    assert serve(model, main) == [200, 429, 200, 200]


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "more_posts"}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_the_published_answers_have_the_shape_of_real_ones(model: ServedModel) -> None:
    examples = json.loads((files("mbti_ray.serving") / "examples.json").read_text("utf-8"))
    for example in examples.values():
        (response,) = post(model, example["request"])
        assert shape(example["answer"]) == shape(response.json())
