"""Damaged and forged bundles: one sentence that names the fault, and no code of theirs is run."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mbti_ray import MBTIClassifier
from mbti_ray.data.tokenizer import build_tokenizer
from mbti_ray.errors import BundleError, ConfigError, RunError
from mbti_ray.inference.bundle import load_bundle
from mbti_ray.inference.predictor import Predictor
from mbti_ray.model.encoder import encoder_config
from mbti_ray.storage.checksums import describe_file

pytestmark = pytest.mark.integration

NAN, DEEP = "@nan@", "@deep@"
TEXTS = [["a quiet evening with a book"], ["we met new friends at the party"]]


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle, to be damaged."""
    shutil.copytree(bundle, tmp_path / "broken")
    return tmp_path / "broken"


def edit_manifest(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / "bundle.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    text = json.dumps(content).replace(f'"{NAN}"', "NaN")
    path.write_text(text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000), "utf-8")


def forge(folder: Path, name: str) -> None:
    """List a changed file with the hash that it now has."""
    record = describe_file(folder / name).model_dump()
    edit_manifest(folder, lambda content: content["files"].update({name: record}))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Predictor.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith((str(folder), "bundle "))
    return message


def at(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("temperature", 0, value=NAN), "NaN is not a finite number"),
        (at("scores", "val", "loss", value=NAN), "NaN is not a finite number"),
        (at("scores", "val", value=DEEP), "recursion"),
        (at("temperature", 1, value=0), "temperature.1"),
        (at("temperature", value=[1.0] * 3), "temperature"),
        (at("thresholds", value=[0.5] * 5), "thresholds"),
        (at("thresholds", 2, value="0.5"), "thresholds.2"),
        (at("thresholds", 3, value=1.5), "thresholds.3"),
        (at("abstain", value=None), "abstain"),
        (at("golden", value=[]), "golden"),
        (at("golden", 0, "logits", value=[0.1, 0.2]), "golden.0.logits"),
        (at("golden", 0, "text", value=7), "golden.0.text"),
        (at("golden", 0, value="text"), "golden.0"),
        (at("labels", value=["I", "S", "F", "P"]), "labels are"),
        (at("unit", value="novel"), "unit"),
        (at("model", value="minilm"), "model"),
        (at("model", "pooling", value="max"), "model.pooling"),
        (at("model", "max_tokens", value=8192), "max_tokens is 8192, the encoder has 128"),
        (at("mask_version", value=99), "masking version 99"),
        (at("mask_also", value=["everything"]), "mask_also.0"),
        (at("format", value=2), "format 2; this version reads 1"),
        (at("extra", value=1), "extra"),
        (at("files", "../../etc/passwd", value={"bytes": 1, "sha256": "0"}), "files"),
        (at("files", "/etc/passwd", value={"bytes": 1, "sha256": "0"}), "files"),
        (at("files", "model.safetensors", "bytes", value=-1), "files.model.safetensors.bytes"),
        (at("files", "model.safetensors", "sha256", value="0" * 64), "recorded SHA-256"),
        (at("files", value={}), "is not listed"),
        (at("data", value=[]), "data"),
        (at("versions", value=["torch"]), "versions"),
        (
            at("runtimes", value={"onnx": {"file": "../x.onnx", "bytes": 1, "sha256": "0"}}),
            "runtimes.onnx.file",
        ),
        (lambda content: content.pop("golden"), "golden"),
        (lambda content: content.clear(), "format None"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_sentence_that_names_the_fault(
    broken: Path, change: Callable[[Any], Any], message: str
) -> None:
    edit_manifest(broken, change)
    assert message in refusal(broken)


@pytest.mark.parametrize("text", ["", "[]", "null", "7", '"bundle"', "{", "\x00", "[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(broken: Path, text: str) -> None:
    (broken / "bundle.json").write_text(text, "utf-8")
    assert "is damaged" in refusal(broken)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "one byte", "forged"])
def test_a_damaged_file_is_refused_by_its_name(broken: Path, name: str, damage: str) -> None:
    path = broken / name
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "missing":
        path.unlink()
    elif damage == "one byte":
        path.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    else:
        path.write_bytes(content[:half])
    if damage == "forged":
        forge(broken, name)
        assert "is damaged" in refusal(broken)
    else:
        assert name in refusal(broken)


def test_without_a_manifest_there_is_no_bundle(broken: Path) -> None:
    (broken / "bundle.json").unlink()
    assert "contains no bundle.json" in refusal(broken)
    with pytest.raises(RunError, match=r"no bundle\.json"):
        MBTIClassifier.load_from_checkpoint(broken)


@pytest.mark.parametrize("name", ["added_tokens.json", "onnx/model.onnx", "code/evil.py"])
def test_a_file_that_is_not_listed_is_refused(broken: Path, name: str) -> None:
    (broken / name).parent.mkdir(exist_ok=True)
    (broken / name).write_text("{}", "utf-8")
    assert f"{name} is not listed" in refusal(broken)


def test_the_leftovers_of_a_killed_export_are_ignored(broken: Path) -> None:
    (broken / ".onnx.0123abcd.tmp").mkdir()
    (broken / ".onnx.0123abcd.tmp" / "model.onnx").write_text("half", "utf-8")
    Predictor.load(broken)


def test_weights_that_miss_the_golden_logits_are_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["heads.bias"] = weights["heads.bias"] + 0.01
    save_file(weights, broken / "model.safetensors")
    forge(broken, "model.safetensors")
    load_bundle(broken)
    assert "golden" in refusal(broken)


# Code that a bundle or an encoder brings along


@pytest.fixture
def code(tmp_path: Path) -> Iterator[str]:
    """A module that leaves a mark when it is run."""
    mark = tmp_path / "was-run"
    yield f"open({os.fspath(mark)!r}, 'w')\n"
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_bundle_that_brings_code_is_refused(broken: Path, name: str, code: str) -> None:
    (broken / "evil.py").write_text(code, "utf-8")
    content = json.loads((broken / name).read_text("utf-8"))
    content["auto_map"] = {"AutoTokenizer": ["evil.T", None], "AutoConfig": "evil.C"}
    (broken / name).write_text(json.dumps(content), "utf-8")
    for file in (name, "evil.py"):
        forge(broken, file)
    assert f"{name} asks to run code" in refusal(broken)


def test_an_encoder_folder_that_brings_code_is_refused_without_asking(
    tmp_path: Path, code: str
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "evil.py").write_text(code, "utf-8")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    tokenizer = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
    for load in (
        lambda: encoder_config(str(folder), vocabulary=10, max_tokens=8),
        lambda: build_tokenizer(str(folder), []),
    ):
        with pytest.raises(ConfigError) as caught:
            load()
        assert "\n" not in str(caught.value)


# Any mutation of a manifest

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, "../x", "onnx/x"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested JSON."""
    children = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in children:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.fixture(scope="module")
def expected(bundle: Path) -> torch.Tensor:
    return Predictor.load(bundle).predict_logits(TEXTS, whole=False).values


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_a_mutated_manifest_gives_the_same_logits_or_is_refused(
    bundle: Path,
    expected: torch.Tensor,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    content = json.loads((bundle / "bundle.json").read_text("utf-8"))
    # The hashes stand for the files, which are not touched here.
    path = data.draw(st.sampled_from([p for p in places(content) if p[0] != "files"]))
    target = content
    for key in path[:-1]:
        target = target[key]
    if data.draw(st.booleans()):
        target[path[-1]] = data.draw(JSON)
    else:
        del target[path[-1]]
    folder = tmp_path_factory.mktemp("mutated") / "bundle"
    shutil.copytree(bundle, folder)
    (folder / "bundle.json").write_text(json.dumps(content), "utf-8")
    try:
        predictor = Predictor.load(folder)
    except BundleError:
        refusal(folder)
        return
    assert torch.equal(predictor.predict_logits(TEXTS, whole=False).values, expected)
    json.dumps(predictor.info, allow_nan=False)
    for prediction in predictor.predict(TEXTS, whole=True):
        json.dumps(prediction.as_dict(), allow_nan=False)
