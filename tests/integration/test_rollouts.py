"""Roll-outs without Ray: what is served after one that failed, and where a roll-back goes."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import ClusterError
from mbti_ray.inference.manifest import load_manifest, write_manifest
from mbti_ray.on_ray.serve import replica, rollout
from mbti_ray.on_ray.serve.rollout_coordinator import ReplicaStatus, RolloutCoordinator
from mbti_ray.serve import main
from mbti_ray.serving.target import ServingTarget

pytestmark = pytest.mark.integration


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> RolloutCoordinator:
    """That of a service with one replica, which serves A; reached without Ray."""
    made = RolloutCoordinator()
    made._target = ServingTarget("A")

    def remote(name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: asyncio.run(getattr(made, name)(*given)))

    names = ("publish", "withdraw", "target", "statuses")
    actor = SimpleNamespace(**{name: remote(name) for name in names})
    monkeypatch.setattr(rollout, "get_or_create_coordinator", lambda _: actor)
    monkeypatch.setattr(rollout, "ray", SimpleNamespace(get=lambda found: found))
    monkeypatch.setattr(rollout, "fetch_bundle", Path)
    monkeypatch.setattr("mbti_ray.inference.predictor.Predictor.load", lambda *_, **__: None)
    return made


def roll_out(
    coordinator: RolloutCoordinator,
    bundle: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: str | None = None,
    meanwhile: str | None = None,
) -> None:
    """Rolls out a bundle, which the replica switches to, or to that of another roll-out."""

    async def statuses() -> dict[str, ReplicaStatus]:
        assert coordinator._target is not None
        if meanwhile and coordinator._target.primary == bundle:
            await coordinator.publish(ServingTarget(meanwhile))
        return {"replica": ReplicaStatus(coordinator._target.version, error)}

    monkeypatch.setattr(coordinator, "statuses", statuses)
    rollout.roll_out("service", ServingTarget(bundle), config=ServeConfig(), replicas=lambda: 1)


def test_after_a_failed_roll_out_a_roll_back_does_not_go_to_the_bundle_that_failed(
    coordinator: RolloutCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out(coordinator, "B", monkeypatch)
    with pytest.raises(ClusterError, match="no memory; the previous bundle is served again"):
        roll_out(coordinator, "C", monkeypatch, error="no memory")
    served = coordinator._target
    assert served is not None
    assert (served.primary, served.version) == ("B", 3)
    assert served.previous is not None
    assert served.previous.primary == "A"


def test_a_roll_out_that_another_one_overtook_does_not_undo_it(
    coordinator: RolloutCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="another bundle was rolled out meanwhile"):
        roll_out(coordinator, "B", monkeypatch, meanwhile="C")
    assert coordinator._target is not None
    assert coordinator._target.primary == "C"


def test_a_gate_refuses_to_compare_a_bundle_with_what_has_replaced_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundle.json").write_text("{}", "utf-8")
    monkeypatch.setenv("RAY_ADDRESS", "here")
    monkeypatch.setattr(
        "mbti_ray.on_ray.serve.service.change_target",
        lambda bundle, _, *, check: check(str(bundle)),
    )
    assert main([str(tmp_path), "--roll-out", "--gate", "people.csv"]) == 2
    assert "--gate has no two bundles to compare" in capfd.readouterr().err


def test_a_bundle_with_the_same_weights_and_other_thresholds_in_the_same_place_is_loaded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(bundle, place)
    monkeypatch.setattr(replica, "current_target", lambda _: None)
    monkeypatch.setattr(replica, "_start_rollout_thread", lambda *_: None)
    monkeypatch.setattr(replica, "ServeMetrics", Mock())
    monkeypatch.setattr(replica.serve, "get_replica_context", Mock())
    monkeypatch.setattr(replica, "build_api", lambda router, *_, **__: router)
    target = ServingTarget(str(place))
    router: Any = replica.build_replica("service", target, ServeConfig(), None)
    before = router._table[1][str(place)]
    router.switch_to(target)
    assert router._table[1][str(place)] is before
    changed = load_manifest(place).model_copy(update={"thresholds": [0.9] * 4})
    write_manifest(place, changed)
    router.switch_to(target)
    assert router.info["thresholds"] == [0.9] * 4
