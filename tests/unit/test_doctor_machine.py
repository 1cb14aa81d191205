"""The doctor's checks of encoder, GPUs, ports, clocks and network, and the remedy each names."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from mbti_ray.checks.clock import judge_clocks, min_skew_s
from mbti_ray.checks.encoder import inspect_encoder
from mbti_ray.checks.gpu import Gpus, find_driver, judge_gpus, probe_gpus, probe_timeout_s
from mbti_ray.checks.network import gloo_address, judge_gloo
from mbti_ray.checks.ports import judge_ports, port_problem
from mbti_ray.checks.versions import torch_cuda_version
from mbti_ray.config import load_run

pytestmark = pytest.mark.unit

# --- encoder ----------------------------------------------------------------------------------


def _encoder_folder(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text("{}")
    return folder


def test_the_tiny_encoder_is_always_there():
    assert inspect_encoder("tiny")[0].state == "ok"


def test_a_folder_with_weights_and_tokenizer_can_be_loaded(tmp_path):
    folder = _encoder_folder(tmp_path / "e", "config.json", "model.safetensors", "tokenizer.json")
    verdict, weights_bytes = inspect_encoder(str(folder))
    assert (verdict.state, weights_bytes) == ("ok", 2)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "has no config.json"),
        (("config.json", "tokenizer.json"), "contains no weights"),
        (("config.json", "model.safetensors"), "contains no tokenizer"),
    ],
)
def test_a_folder_that_lacks_something_is_wrong(files, says, tmp_path):
    verdict, _ = inspect_encoder(str(_encoder_folder(tmp_path / "e", *files)))
    assert verdict.state == "wrong"
    assert says in verdict.message
    assert verdict.remedy


def test_a_folder_that_is_not_there_is_wrong(tmp_path):
    verdict, _ = inspect_encoder(str(tmp_path / "none"))
    assert verdict.state == "wrong"
    assert "no such folder" in verdict.message
    assert "on every machine" in verdict.remedy


@contextmanager
def hub(status: int) -> Iterator[tuple[str, list[str]]]:
    """A hub on loopback that answers everything so; its address, and what it was asked."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            token = self.headers.get("Authorization")
            asked.append(f"{self.path} {token}" if token else self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *ignored: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, *, is_offline: bool = False) -> None:
    """The hub's library has read its environment when it was imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        (200, "ok", "has it"),
        (307, "ok", "has it"),
        (404, "wrong", "has no such model"),
        (401, "wrong", "refuses access from this machine"),
        (503, "wrong", "answers 503"),
    ],
)
def test_a_hub_is_asked_for_what_its_cache_lacks(status, state, says, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with hub(status) as (address, asked):
        use_hub(monkeypatch, address)
        verdict, _ = inspect_encoder("nobody/no-such-encoder")
    assert verdict.state == state
    assert says in verdict.message
    assert asked == ["/nobody/no-such-encoder/resolve/main/config.json"]


def test_a_hub_is_shown_the_token_that_a_login_left(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_text("hf_abc\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub(200) as (address, asked):
        use_hub(monkeypatch, address)
        inspect_encoder("nobody/no-such-encoder")
    assert asked == ["/nobody/no-such-encoder/resolve/main/config.json Bearer hf_abc"]


def test_a_hub_that_is_not_reached_is_wrong_and_says_how_to_do_without(monkeypatch):
    with _listening() as port:
        pass
    use_hub(monkeypatch, f"http://127.0.0.1:{port}")
    verdict, _ = inspect_encoder("nobody/no-such-encoder")
    assert verdict.state == "wrong"
    assert f"http://127.0.0.1:{port} cannot be reached" in verdict.message
    assert "hf download nobody/no-such-encoder" in verdict.remedy


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    with hub(200) as (address, asked):
        use_hub(monkeypatch, address, is_offline=True)
        verdict, _ = inspect_encoder("nobody/no-such-encoder")
    assert verdict.state == "wrong"
    assert "HF_HUB_OFFLINE" in verdict.message
    assert asked == []


# --- gpu --------------------------------------------------------------------------------------


def test_torch_is_asked_in_a_process_of_its_own_and_says_what_it_has():
    import torch

    found = probe_gpus("13.0", timeout_s=120)
    assert found.problem is None
    assert found.probed is not None
    assert len(found.probed["gpus"]) == torch.cuda.device_count()
    assert found.probed["torch"] == torch.__version__


def test_torch_that_does_not_answer_in_time_is_said_to():
    found = probe_gpus("13.0", timeout_s=0.01)
    assert found.problem == "torch did not answer within 0.01 s"
    assert judge_gpus(found, counted=1, is_needed=True).state == "wrong"


@pytest.mark.skipif(find_driver() is not None, reason="this machine has a GPU")
def test_eight_gpus_and_their_connections_have_the_time_that_they_take():
    assert probe_timeout_s(0) == probe_timeout_s(1) == 12
    assert probe_timeout_s(8) == 40


def test_no_gpu_is_wrong_only_where_one_is_asked_for():
    none = Gpus(find_driver(), torch_cuda_version())
    assert judge_gpus(none, counted=0, is_needed=False).line() == "gpu: none here"
    verdict = judge_gpus(none, counted=0, is_needed=True)
    assert verdict.state == "wrong"
    assert "scaling.use_gpu" in verdict.remedy


def _probed(*problems: str | None, nccl: str | None = "2.28.9", reason: str | None = None):
    gpus = [{"name": "H100", "memory_bytes": 80 << 30, "problem": p} for p in problems]
    return {"gpus": gpus, "nccl": nccl, "reason": reason}


@pytest.mark.parametrize(
    ("gpus", "counted", "state", "says"),
    [
        (Gpus("580.1", None), 1, "wrong", "torch is a build for CPUs only"),
        (Gpus("470.1", "13.0", _probed(reason="driver is too old")), 2, "wrong", "0 of 2 (driver"),
        (Gpus("580.1", "13.0", _probed(None, "no kernel image")), 2, "wrong", "1 of 2 (no kernel"),
        (Gpus("580.1", "13.0", _probed(None, nccl=None)), 1, "warning", "no NCCL"),
        (
            Gpus("580.1", "13.0", _probed(None) | {"together": "timeout"}),
            1,
            "wrong",
            "cannot reduce",
        ),
        (Gpus("580.1", "13.0", _probed(None)), 1, "ok", "H100 80 GiB; driver 580.1"),
        (Gpus("580.1", "13.0"), 1, "ok", "1 found, torch is built for CUDA 13.0"),
    ],
)
def test_gpus_that_ray_gives_out_have_to_compute(gpus, counted, state, says):
    verdict = judge_gpus(gpus, counted=counted, is_needed=True)
    assert verdict.state == state
    assert says in verdict.message
    assert bool(verdict.remedy) == (state != "ok")


# --- ports ------------------------------------------------------------------------------------


@contextmanager
def _listening(host: str = "127.0.0.1") -> Iterator[int]:
    with closing(socket.socket()) as server:
        server.bind((host, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_somebody_listens_on_is_named_with_its_setting(monkeypatch):
    for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
        monkeypatch.setenv(name, "0")
    with _listening() as port:
        config = load_run("quick", [f"serve.port={port}"]).serve
        (verdict,) = judge_ports(config, with_dashboard=False)
        assert verdict.state == "warning"
        assert f"127.0.0.1:{port} (serve.port): Address already in use" in verdict.message
        assert "set serve.port" in verdict.remedy
    assert port_problem("127.0.0.1", port) is None
    assert judge_ports(config, with_dashboard=False)[0].state == "ok"


# --- clocks -----------------------------------------------------------------------------------


def test_a_clock_between_question_and_answer_is_right_and_others_are_off_at_least_so():
    assert min_skew_s(101, 100, 102) == 0
    assert min_skew_s(110, 100, 102) == 8
    assert min_skew_s(90, 100, 102) == -10


@pytest.mark.parametrize(
    ("skew", "state"), [(0, "ok"), (1.5, "ok"), (-30, "warning"), (4000, "wrong")]
)
def test_clocks_that_are_off_are_named(skew, state):
    verdict = judge_clocks({"a": 0.0, "b": skew})
    assert verdict.state == state
    if state != "ok":
        assert f"b by {skew:+d} s" in verdict.message
        assert "time synchronization" in verdict.remedy


# --- network ----------------------------------------------------------------------------------


def test_gloo_on_loopback_is_wrong_where_workers_are_on_several_machines() -> None:
    verdict = judge_gloo({"10.0.0.2": "127.0.1.1", "10.0.0.3": "10.0.0.3", "10.0.0.4": None})
    assert verdict.state == "wrong"
    assert "to loopback on 10.0.0.2, unreachable" in verdict.message
    assert "GLOO_SOCKET_IFNAME" in verdict.remedy
    assert judge_gloo({"10.0.0.3": "10.0.0.3", "10.0.0.4": None}).state == "ok"


# What torch listens on, from what the kernel says of its sockets.
LISTENS = """
import os, socket, sys, torch.distributed as d
d.init_process_group("gloo", store=d.FileStore(sys.argv[1], 1), rank=0, world_size=1)
own = set()
for number in os.listdir("/proc/self/fd"):
    try: own.add(os.readlink(f"/proc/self/fd/{number}"))
    except OSError: pass
for line in open("/proc/self/net/tcp").read().splitlines()[1:]:
    _, local, _, state, *rest = line.split()
    if state == "0A" and f"socket:[{rest[5]}]" in own:
        print(socket.inet_ntoa(bytes.fromhex(local.partition(":")[0])[::-1]))
"""


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="asks Linux")
def test_gloo_listens_where_the_check_says(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GLOO_SOCKET_IFNAME"}
    command = [sys.executable, "-c", LISTENS, str(tmp_path / "store")]
    said = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert said.stdout.split() == [gloo_address(environment)]
    assert gloo_address({"GLOO_SOCKET_IFNAME": "eth0"}) is None
