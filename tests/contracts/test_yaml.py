"""Every YAML file of the repository is one, and every config in it loads."""

import subprocess
from pathlib import Path

import pytest
import yaml

from mbti_ray import __version__
from mbti_ray.config import PRESETS, load_run, load_study

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]


def yaml_files(root: Path) -> list[str]:
    """Paths of all YAML files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(
        name
        for name in listed.split("\0")
        if name.endswith((".yaml", ".yml")) and (root / name).is_file()
    )


FILES = yaml_files(ROOT)
STUDIES = [name for name in FILES if name.startswith("tune_configs/")]


def test_the_yaml_files_of_the_repository_are_found():
    assert {f"mbti_ray/config/presets/{preset}.yaml" for preset in PRESETS} <= set(FILES)
    assert "tune_configs/quick.yaml" in STUDIES


def test_yaml_files_in_any_folder_are_found(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("out/\n")
    (tmp_path / "out").mkdir()
    for name in ("x.yaml", "a/b/y.yml", "a/b/z.txt", "out/w.yaml"):
        (tmp_path / name).write_text("")
    assert yaml_files(tmp_path) == ["a/b/y.yml", "x.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_yaml_file_parses_without_a_key_twice(name):
    text = (ROOT / name).read_text("utf-8")
    assert list(yaml.load_all(text, Loader=_StrictLoader)) not in ([], [None])


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML itself would pass over: the second of two equal keys wins."""

    def construct_mapping(self, node, deep=False):
        # As written: a merge (<<) may bring a key that stands here too, and gives way to it.
        keys = [str(key.value) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"line {node.start_mark.line + 1}: a key twice: {keys}"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads(preset):
    assert load_run(preset).name is None


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_file_loads_and_searches_something(name):
    config = load_study(str(ROOT / name))
    assert config.search
    assert config.study.trials >= 1


def test_the_citation_names_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
