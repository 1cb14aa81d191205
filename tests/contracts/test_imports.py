"""Importing stays light: help and mistakes are answered before anything heavy is loaded."""

import os
import re
import subprocess
import sys
from functools import cache

import pytest

import mbti_ray
from mbti_ray.__main__ import VERBS

pytestmark = pytest.mark.contracts

HEAVY = {"torch", "transformers", "optuna", "ray", "datasets", "pyarrow", "numpy", "fastapi"}


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that a fresh Python loads when it is called with these arguments."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    # What an editable install or a plug-in loads at every start is not ours to answer for.
    return {name.partition(".")[0] for name in loaded} - loaded_at_start()


@cache
def loaded_at_start() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "from mbti_ray import MBTIClassifier"],
        ["-c", "import mbti_ray.cli.command"],
        ["-c", "import mbti_ray.config, mbti_ray.runs.run_folder, mbti_ray.typology"],
        ["-m", "mbti_ray", "--help"],
        *(["-m", f"mbti_ray.{verb}", "--help"] for verb in VERBS),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_for(arguments):
    loaded = loaded_by(*arguments)
    assert "mbti_ray" in loaded
    assert not loaded & HEAVY


def test_a_heavy_import_would_be_noticed():
    assert "numpy" in loaded_by("-c", "import numpy")


def test_a_mistake_is_answered_without_anything_heavy():
    code = (
        "import sys; from mbti_ray.__main__ import main; "
        "assert main(['train', 'optim.lrr=1']) == 2; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY
    assert "optim.lrr" in done.stderr


def test_a_source_and_a_manifest_are_read_without_torch():
    """What `train` and `serve` refuse in a moment."""
    loaded = loaded_by("-c", "import mbti_ray.data.sources, mbti_ray.inference.manifest")
    assert not loaded & {"torch", "transformers", "ray", "datasets"}


def test_the_process_that_starts_the_service_does_without_torch():
    loaded = loaded_by("-c", "import mbti_ray.on_ray.serve.service")
    assert "ray" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers"}


def test_threads_of_torch_spin_briefly_at_a_barrier():
    done = subprocess.run(
        [sys.executable, "-c", "import mbti_ray, torch"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose"},
    )
    assert "GOMP_SPINCOUNT = '5000'" in done.stderr


def test_the_public_names_are_these():
    assert set(mbti_ray.__all__) == {"MBTIClassifier", "__version__"}
    assert len(mbti_ray.__all__) == 2


def test_the_public_class_is_importable_from_the_package():
    from mbti_ray import MBTIClassifier, mbti_classifier

    assert MBTIClassifier is mbti_classifier.MBTIClassifier
    assert {"load_from_checkpoint", "predict", "predict_proba"} <= set(vars(MBTIClassifier))


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'MBTIClasifier'"):
        _ = mbti_ray.MBTIClasifier
