"""What the package imports is declared, and what is declared is pinned to what was tested."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(r) for rs in PROJECT["optional-dependencies"].values() for r in rs]
CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


def imported_by(folder: Path, *, on_import: bool = False) -> dict[str, set[str]]:
    """Third-party top-level modules with the files that import them.

    Args:
        on_import: Only what is imported when the file itself is.
    """
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in tree.body if on_import else ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(path.name)
    own = {"mbti_ray", *sys.stdlib_module_names}
    return {name: files for name, files in found.items() if name not in own}


@pytest.mark.parametrize(
    ("on_import", "allowed"), [(True, REQUIRED), (False, [*REQUIRED, *EXTRAS])]
)
def test_every_third_party_import_is_declared_and_extras_are_imported_where_needed(
    on_import, allowed
):
    declared = {canonicalize_name(r.name) for r in allowed}
    made_by = packages_distributions()
    undeclared = {
        name: sorted(files)
        for name, files in imported_by(ROOT / "mbti_ray", on_import=on_import).items()
        if not declared & {canonicalize_name(d) for d in made_by.get(name, [name])}
    }
    assert undeclared == {}


def test_the_imports_of_the_package_are_found():
    assert {"torch", "ray", "yaml", "rich"} <= set(imported_by(ROOT / "mbti_ray"))


def test_every_constraint_is_a_name_and_an_exact_version():
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line


def pins() -> dict[str, Version]:
    pairs = [line.split("==") for line in CONSTRAINTS]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_no_constraint_is_there_twice():
    assert len(pins()) == len(CONSTRAINTS)


@pytest.mark.parametrize("requirement", [*REQUIRED, *EXTRAS], ids=str)
def test_a_declared_dependency_is_pinned_to_a_version_that_it_allows(requirement):
    pinned = pins()
    name = canonicalize_name(requirement.name)
    assert name in pinned
    assert requirement.specifier.contains(pinned[name])


def test_every_folder_of_tests_is_collected():
    pytest_options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    folders = {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == set(pytest_options["ini_options"]["testpaths"])


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_what_was_measured_was_measured_with_the_pinned_torch(path):
    """The versions that a benchmark found on its machine, against constraints.txt.

    A machine with a GPU has the torch of its driver: one that pyproject.toml allows.
    """
    found = set(re.findall(r'"torch": "([^"+]+)', path.read_text("utf-8")))
    if "NVIDIA" in path.read_text("utf-8"):
        (torch,) = (requirement for requirement in REQUIRED if requirement.name == "torch")
        assert found == set(torch.specifier.filter(found))
    else:
        assert found <= {str(pins()["torch"])}


def test_results_that_name_their_torch_are_found():
    assert sum('"torch": "' in path.read_text("utf-8") for path in RESULTS) > 5
