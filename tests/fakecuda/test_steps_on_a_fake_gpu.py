"""Steps for a GPU, traced on any machine: no tensor on a wrong device or of a wrong dtype."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.fakecuda,
    pytest.mark.skipif(torch.version.cuda is not None, reason="torch has a CUDA device guard"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ for the device guard"),
]

HERE = Path(__file__).parent
# Encoders x precisions x padded or packed, old cards, and seven configurations of one encoder.
VARIANTS = 7 * 3 + 5 * 3 + 2 * 3 + 7 * 3


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device guard, built against the installed torch."""
    library = tmp_path_factory.mktemp("guard") / "guard.so"
    root = Path(torch.__file__).parent
    libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}"]
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}"]
    command = ["g++", *options, str(HERE / "guard.cpp"), *libraries, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def test_every_variant_of_a_step_is_traced_without_a_mismatch(guard: Path) -> None:
    command = [sys.executable, str(HERE / "trace_steps.py"), str(guard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    problems = dict(json.loads(line) for line in done.stdout.splitlines())
    assert {name: problem for name, problem in problems.items() if problem} == {}
    assert len(problems) == VARIANTS


def test_a_tensor_on_the_wrong_device_is_found(guard: Path) -> None:
    script = (
        "import ctypes, sys; ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)\n"
        "import torch\n"
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "with FakeTensorMode():\n"
        "    torch.ones(3, device='cuda:0') + torch.ones(3)\n"
    )
    command = [sys.executable, "-c", script, str(guard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FakeTensorDeviceMismatchError" in done.stderr
