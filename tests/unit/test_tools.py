"""What `config` and `completion` print, also for a reader that has ended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbti_ray.__main__ import main
from mbti_ray.config import RunConfig, StudyConfig
from mbti_ray.config.settings import config_addresses

pytestmark = pytest.mark.unit

STUDY = str(Path(__file__).parents[2] / "tune_configs" / "quick.yaml")


def test_config_shows_every_setting_with_its_value_and_what_is_allowed(capsys):
    assert main(["config", "quick", "fit.epochs=3", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    settings = json.loads(last)
    assert list(settings) == config_addresses(RunConfig)
    assert settings["fit.epochs"]["value"] == 3
    assert settings["fit.epochs"]["allowed"] == "integer >= 1"
    assert any(line.startswith("fit.epochs=3 (by default 10)  ") for line in lines)
    assert main(["config", STUDY, "--json"]) == 0
    study = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(study) == config_addresses(StudyConfig)


@pytest.mark.parametrize("argv", [["config", "--json"], ["completion"], ["completion", "--json"]])
def test_a_reader_that_has_ended_ends_a_command_without_a_word(argv):
    command = [sys.executable, "-u", "-m", "mbti_ray", *argv]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mbti-ray tr", "train"),
        ("mbti-ray train mi", "minilm"),
        ("mbti-ray serve --ro", "--roll-out --roll-back"),
        ("mbti-ray tune optim.l", "optim.lr= optim.layer_decay="),
        ("mbti-ray train data.source = m", ""),
    ],
)
def test_bash_completes_commands_presets_and_keys(typed, offered, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    words = f"COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1))"
    ask = f'{words}; _mbti_ray 2>/dev/null; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == offered
