"""The scores of a run are those of its bundle: in float32 and by one decision rule."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import torch

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.run_folder import RunFolder

pytestmark = pytest.mark.integration


def quotes(page: Path) -> list[str]:
    """The rows most wrong, as a report shows them."""
    return re.findall(r'<p class="quote">(.*?)</p>', unescape(page.read_text("utf-8")), re.DOTALL)


@pytest.mark.parametrize("trainable", ["all", "heads"])
def test_a_bf16_run_evaluate_and_the_predictor_score_val_and_test_alike(
    short: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trainable: str,
) -> None:
    config = short(
        "fit.precision=bf16-mixed",
        "scoring.threshold=balanced_accuracy",
        f"model.trainable={trainable}",
        "scoring.examples=3",
        "scoring.resamples=100",
    )
    data = prepare_dataset(config, tmp_path / "cache")
    folder = RunFolder.at(tmp_path / "run")
    folder.path.mkdir()
    finalize_run(config, data, run(config, data, Worker()), folder)
    scores = json.loads((folder.path / "scores.json").read_text("utf-8"))
    quoted = quotes(folder.report)
    assert len(quoted) == 3
    assert {*quoted} <= {*data.splits["test"].texts}
    predictor = Predictor.load(folder.bundle)
    for split in ("val", "test"):
        capsys.readouterr()
        page = tmp_path / f"{split}.html"
        options = ["--split", split, "--report", str(page), "--json"]
        # Texts are private: a report quotes them only where it was asked to.
        asked = [] if split == "test" else ["scoring.examples=0"]
        assert evaluate_main([str(folder.bundle), *asked, *options]) == 0
        assert quotes(page) == (quoted if split == "test" else [])
        evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert evaluated["split"] == split
        assert evaluated["scores"] == pytest.approx(scores[split], abs=1e-5)
        windows = data.splits[split]
        predicted = predictor.predict([text.split("\n") for text in windows.texts], whole=True)
        answers = torch.tensor([[*p.probabilities.values()] for p in predicted])
        answers = answers > predictor.decision.thresholds
        all_four = (answers == torch.from_numpy(windows.labels).bool()).all(1).double().mean()
        assert float(all_four) == pytest.approx(scores[split]["acc_total"])
