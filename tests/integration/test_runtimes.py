"""ONNX Runtime compared with torch: equal logits in float32, close in int8, damage refused."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from mbti_ray.config import RunConfig
from mbti_ray.errors import BundleError, ConfigError
from mbti_ray.export import main as export_main
from mbti_ray.inference.bundle import write_runtimes
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import RuntimeKind

pytestmark = [
    pytest.mark.integration,
    # The exporter of torch 2.13 warns of its own parts.
    pytest.mark.filterwarnings("ignore"),
]

Build = Callable[..., RunConfig]
TEXTS = ["a", "a quiet evening with a book and some tea", "party " * 30, "Ünïcode 🙂"]


@pytest.fixture(scope="module")
def plain(quick: Build, make_bundle: Callable[[RunConfig], Path]) -> Path:
    """A bundle without exports."""
    return make_bundle(quick("model.max_tokens=32", "fit.epochs=2"))


@pytest.fixture(scope="module")
def exported(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle after `mbti_ray.export`."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    shutil.copytree(plain, folder)
    assert export_main([str(folder)]) == 0
    return folder


@pytest.mark.parametrize(("kind", "allowed"), [("onnx", 1e-5), ("onnx-int8", 0.1)])
def test_a_runtime_reproduces_the_logits_of_torch(
    exported: Path, kind: RuntimeKind, allowed: float
) -> None:
    expected = Predictor.load(exported).predict_logits([[t] for t in TEXTS], whole=False).values
    found = (
        Predictor.load(exported, runtime=kind)
        .predict_logits([[t] for t in TEXTS], whole=False)
        .values
    )
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx-int8"])
def test_a_text_has_the_same_logits_in_any_company(exported: Path, kind: RuntimeKind) -> None:
    predictor, chance = Predictor.load(exported, runtime=kind), random.Random(0)
    window, *others = (
        row.windows[0]
        for row in predictor.encode(
            [[t] for t in (TEXTS[1], *TEXTS, "1 2 3", "ZZZ ! ?")], whole=False
        )
    )
    alone = predictor.forward([window])[0]
    gaps = []
    for _ in range(100):
        company = [window, *chance.choices(others, k=chance.randint(1, 12))]
        gaps.append(float((predictor.forward(company)[0] - alone).abs().max()))
    assert max(gaps) <= 1e-5


def test_bf16_reproduces_the_logits_of_torch_within_its_digits(exported: Path) -> None:
    exact, rounded = (
        Predictor.load(exported, precision=precision).predict_logits(
            [[t] for t in TEXTS], whole=False
        )
        for precision in ("auto", "bf16")
    )
    assert rounded.values.dtype == torch.float32
    assert not torch.equal(rounded.values, exact.values)
    torch.testing.assert_close(rounded.values, exact.values, rtol=0.05, atol=0.05)


def test_fp16_on_a_cpu_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match=r"serve\.precision=fp16: .* allowed on a CPU: .*bf16"):
        Predictor.load(exported, precision="fp16")


def test_int8_differs_from_float32_and_is_smaller(exported: Path) -> None:
    runtimes = load_manifest(exported).runtimes
    assert runtimes["onnx-int8"].golden_gap > runtimes["onnx"].golden_gap
    assert runtimes["onnx-int8"].bytes < runtimes["onnx"].bytes


def test_int8_leaves_products_of_activations_in_float32(exported: Path) -> None:
    graph = onnx.load(str(exported / "onnx" / "model.int8.onnx")).graph
    weights = {weight.name for weight in graph.initializer}
    source = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    quantized = [
        [source[name].input[0] for name in node.input]
        for node in products
        if all(name in source and source[name].op_type == "DequantizeLinear" for name in node.input)
    ]
    assert 0 < len(quantized) < len(products)
    assert all(weights & {*inputs} for inputs in quantized)


def test_an_export_keeps_the_bundle_id_and_records_the_scores_of_each_runtime(
    exported: Path, plain: Path
) -> None:
    manifest = load_manifest(exported)
    assert manifest.id == load_manifest(plain).id
    test = manifest.scores["test"]
    float32 = manifest.runtimes["onnx"].scores
    assert float32["rows"] == test["rows"]
    assert float32["acc_mean"] == pytest.approx(test["acc_mean"], abs=1e-9)
    int8 = manifest.runtimes["onnx-int8"].scores
    assert int8["gained"]["brier"] == pytest.approx(int8["brier"] - test["brier"], abs=1e-6)
    assert "held out for testing" in int8["data"]


def test_a_missing_export_is_reported_with_the_command_that_creates_it(plain: Path) -> None:
    with pytest.raises(BundleError, match=r"mbti_ray\.export .*serve\.runtime=torch"):
        Predictor.load(plain, runtime="onnx")


@pytest.mark.parametrize("damage", ["missing", "cut", "same size"])
def test_a_damaged_graph_is_refused_while_torch_still_works(
    exported: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    graph = folder / "onnx" / "model.onnx"
    content = graph.read_bytes()
    if damage == "missing":
        graph.unlink()
    else:
        half = len(content) // 2
        graph.write_bytes(content[:half] + (b"" if damage == "cut" else bytes(len(content) - half)))
    with pytest.raises(BundleError):
        Predictor.load(folder, runtime="onnx")
    Predictor.load(folder)


def test_a_graph_with_other_weights_fails_the_golden_check(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    runtimes = load_manifest(folder).runtimes
    golden = [[x + 1 for x in row] for row in runtimes["onnx-int8"].golden]
    changed = runtimes["onnx-int8"].model_copy(update={"golden": golden})
    write_runtimes(folder, {**runtimes, "onnx-int8": changed})
    with pytest.raises(BundleError, match="golden"):
        Predictor.load(folder, runtime="onnx-int8")


def test_an_export_that_fails_the_golden_check_is_not_kept(plain: Path, tmp_path: Path) -> None:
    from mbti_ray.inference.runtimes.onnx_export import export_onnx

    folder = tmp_path / "bundle"
    shutil.copytree(plain, folder)
    content = json.loads((folder / "bundle.json").read_text("utf-8"))
    content["golden"][0]["logits"][0] += 1
    (folder / "bundle.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(BundleError, match="the exported graph differs"):
        export_onnx(folder)
    assert load_manifest(folder).runtimes == {}
    assert not (folder / "onnx").exists()


def test_without_labeled_rows_nothing_is_exported(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(plain, folder)
    assert export_main([str(folder), f"data.source={tmp_path / 'gone.csv'}"]) == 2
    assert "gone.csv" in capsys.readouterr().err
    assert load_manifest(folder) == load_manifest(plain)
    assert not (folder / "onnx").exists()
