"""The checks of benchmarks/gpu.py tell right from wrong, where a CPU can try them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mbti_ray.engine.step import Stepper

pytestmark = pytest.mark.integration

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    shape = gpu.save_encoder(tmp_path / "encoder", 32, tiny=True, dropout=0.0)
    full, ragged = (gpu.random_dataset(32, 32, shape.vocab_size, shortest=n) for n in (None, 16))
    return gpu.Bench("cpu", str(tmp_path / "encoder"), 32, full, ragged, tmp_path)


def test_out_of_memory_holds_with_the_engine_and_fails_with_one_that_forgets_windows(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_checks

    assert gpu_checks.out_of_memory(bench)["ok"]
    halve = Stepper._halve

    def forgetful(stepper: Stepper, step: Any) -> None:
        halve(stepper, step)
        step.members[:] = [members[: len(members) // 2] for members in step.members]

    monkeypatch.setattr(Stepper, "_halve", forgetful)
    assert not gpu_checks.out_of_memory(bench)["ok"]


def test_packed_fails_where_attention_ignores_what_is_padding(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_checks

    assert gpu_checks.packed(bench)["ok"]
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "transformers.integrations.sdpa_attention.torch.nn.functional.scaled_dot_product_attention",
        lambda q, k, v, attn_mask=None, **more: attend(q, k, v, **more),
    )
    assert not gpu_checks.packed(bench)["ok"]


def test_a_part_that_fails_costs_no_other_one(bench: Any) -> None:
    import gpu

    def fails() -> dict[str, Any]:
        raise RuntimeError("no kernel")

    found = gpu.tried(fails, gpu.time.monotonic() + 10)
    assert (found["ok"], found["why"]) == (False, "RuntimeError: no kernel")
    assert gpu.tried(dict, gpu.time.monotonic() - 10)["ok"] is None
