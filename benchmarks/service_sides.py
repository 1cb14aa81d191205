"""The sides of benchmarks/serve.py: bundles, services as processes, and the CPU time they take."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from transformers import AutoModelForSequenceClassification

from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.encoder_files import locate_encoder
from mbti_ray.data.tokenizer import load_tokenizer
from mbti_ray.inference.bundle import load_bundle, load_model
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.runtimes.onnx_export import export_onnx
from mbti_ray.model.classifier import build_model

ROOT = Path(__file__).parent
CORES = os.cpu_count() or 1
OURS = ("torch", "onnx", "onnx-int8")
PEERS = ("fastapi", *(f"litserve-{runtime}" for runtime in OURS))
_TICKS_S = os.sysconf("SC_CLK_TCK")
# How the replica calls the threads of the forward pass; its other processes, by their titles.
_FORWARD = "forward"
_TITLES = {
    "haproxy": "haproxy",
    "ray::ServeController": "controller",
    "ray::ServeReplica": "replica",
}


def build_bundle(source: str, folder: Path, *overrides: str, is_exported: bool = True) -> Path:
    """A bundle of the preset minilm with fresh heads, unless it is there."""
    if folder.exists():
        return folder
    config = load_run("minilm", [f"data.source={source}", *overrides])
    data = prepare_dataset(config, folder.parent / "cache")
    write_bundle(
        folder,
        config=config,
        model=build_model(config.model, vocabulary=len(data.tokenizer), seed=0),
        data=data,
        scores={},
    )
    if is_exported:
        export_onnx(folder)
    return folder


def build_peer(bundle: Path, folder: Path) -> Path:
    """The encoder and heads of a bundle as a folder of transformers, unless it is there."""
    if folder.exists():
        return folder
    found = load_bundle(bundle)
    config = found.manifest.model
    model = AutoModelForSequenceClassification.from_pretrained(
        locate_encoder(config.encoder),
        num_labels=4,
        problem_type="multi_label_classification",
    )
    model.classifier.load_state_dict(load_model(found).heads.state_dict())
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(bundle)
    tokenizer.model_max_length = config.max_tokens
    tokenizer.save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Side:
    """One service, as a process with what it starts."""

    def __init__(
        self, name: str, bundle: Path, log: Path, *, package: Path = ROOT.parent, options: list[str]
    ) -> None:
        """
        Args:
            name: One of OURS, or one of PEERS, for which `bundle` has a folder `peer` beside it.
            options: serve.* of ours.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        if name in OURS:
            command = ["-m", "mbti_ray.serve", str(bundle), f"serve.port={port}"]
            command += [f"serve.runtime={name}", "serve.max_wait_s=60", *options]
        else:
            script, _, runtime = name.partition("-")
            peer = str(bundle.parent / "peer")
            command = [str(ROOT / "peers" / f"{script}_peer.py"), peer, str(port), str(CORES)]
            if runtime.startswith("onnx"):
                command.append(str(bundle / load_bundle(bundle).manifest.runtimes[runtime].file))
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(package),
        }
        self._log = log.open("a")
        self._process = psutil.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            cwd=log.parent,
        )

    def wait_ready(self, body: str) -> None:
        end = time.monotonic() + 180
        headers = {"Content-Type": "application/json"}
        with httpx.Client(trust_env=False, timeout=30, headers=headers) as client:
            while time.monotonic() < end:
                if self._process.poll() is not None:
                    raise RuntimeError(f"the service ended; see {self._log.name}")
                try:
                    if client.post(f"{self.url}/predict", content=body).is_success:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
        raise RuntimeError("the service did not become ready")

    def cpu_s(self) -> Counter[str]:
        """CPU seconds so far: the forward pass, the rest of the replicas, HAProxy, the controller,
        all else that the service started.
        """
        found: Counter[str] = Counter()
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                title = process.name() + " " + " ".join(process.cmdline())
                part = next((p for t, p in _TITLES.items() if t in title), "else")
                for thread in Path(f"/proc/{process.pid}/task").iterdir():
                    name, times = thread.joinpath("stat").read_text().rsplit(") ", 1)
                    user, system = times.split()[11:13]
                    is_forward = part == "replica" and name.endswith(f"({_FORWARD}")
                    found[_FORWARD if is_forward else part] += (int(user) + int(system)) / _TICKS_S
            except (OSError, psutil.Error):
                continue  # It has ended since.
        return found

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()
