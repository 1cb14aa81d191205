"""What README, docs and Makefile tell people to type and to open exists."""

import re
import shlex
from pathlib import Path

import pytest

from mbti_ray.__main__ import TOOLS, VERBS
from mbti_ray.config import PRESETS, StudyConfig
from mbti_ray.config.settings import config_addresses

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in [*ROOT.glob("*.md"), ROOT / "Makefile", *sorted((ROOT / "docs").rglob("*.md"))]
}

ADDRESSES = {*config_addresses(StudyConfig), "bundle"}
# `key=value` and `search.ADDRESS=...` stand for any of them.
PLACEHOLDERS = {"key"}
_COMMAND = re.compile(r"(?:python3? -m mbti_ray\.|mbti-ray )([a-z]\w*)((?:\\\n|[^`\n])*)")
_SERVE_RUN = re.compile(r"(serve run) serve_app:app((?:\\\n|[^`\n])*)")
_OVERRIDE = re.compile(r"\[?([a-z_]+(?:\.[a-z_]+)*)=")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Verb and words of every command of ours in a text, wherever it stands."""
    found = []
    for pattern in (_COMMAND, _SERVE_RUN):
        for verb, rest in pattern.findall(text):
            found.append((verb, shlex.split(rest.replace("\\\n", " "), comments=True)))
    return found


def unknown_addresses(words: list[str]) -> list[str]:
    """The left sides of `key=value` words that no setting has."""
    given = [match.group(1) for word in words if (match := _OVERRIDE.match(word))]
    return [a for a in given if a not in ADDRESSES | PLACEHOLDERS and not a.startswith("search.")]


COMMANDS = [
    pytest.param(verb, words, id=f"{document}: {verb} {' '.join(words)}")
    for document, text in DOCUMENTS.items()
    for verb, words in commands_in(text)
]


def test_commands_are_found_in_the_documents():
    assert {"train", "tune", "evaluate", "predict"} <= {verb for verb, _ in commands_in(README)}
    assert {*VERBS, "serve run"} <= {
        verb for text in DOCUMENTS.values() for verb, _ in commands_in(text)
    }


@pytest.mark.parametrize(("verb", "words"), COMMANDS)
def test_a_command_names_a_verb_and_settings_that_exist(verb, words):
    assert verb in {*VERBS, *TOOLS, "serve run"}
    assert unknown_addresses(words) == []
    for word in words:
        if word.endswith(".yaml") and word.startswith("tune_configs/"):
            assert (ROOT / word).is_file()
    if verb == "train" and words and re.fullmatch(r"[a-z_]+", words[0]):
        assert words[0] in PRESETS


def test_commands_that_would_not_work_are_noticed():
    ((verb, words),) = commands_in(
        "so `.venv/bin/python -m mbti_ray.tain optim.lrr=1 seed=2` it is"
    )
    assert verb == "tain"
    assert unknown_addresses(words) == ["optim.lrr"]
    ((_, words),) = commands_in(
        "python -m mbti_ray.tune x.yaml \\\n  fit.epoch=3  # zzz=1\nseeds=1"
    )
    assert unknown_addresses(words) == ["fit.epoch"]
    assert unknown_addresses(["[serve.prt=8000", "...]"]) == ["serve.prt"]


def make_targets_in(text: str) -> set[str]:
    """Targets of `make X` in inline code and in fenced blocks."""
    code = [block for _, block in _FENCE.findall(text)]
    code += re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    return {t for part in code for t in re.findall(r"(?<!\w)make ([a-z][\w-]*)", part)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_exists(document):
    exists = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, flags=re.MULTILINE))
    assert make_targets_in(DOCUMENTS[document]) <= exists


def test_the_two_commands_of_the_readme_are_demo_and_test():
    assert {"demo", "test"} <= make_targets_in(README)
    assert make_targets_in("run `make nonsense`, or make it so") == {"nonsense"}


def file_trees(text: str) -> list[list[str]]:
    """The paths of every fenced block whose lines all read `path  comment`."""
    trees = []
    for language, block in _FENCE.findall(text):
        lines = [line for line in block.splitlines() if line.strip()]
        paths = [re.match(r"([\w.][\w./*-]*)(?: {2,}\S.*)?$", line) for line in lines]
        if not language and lines and all(paths):
            trees.append([match.group(1) for match in paths if match])
    return trees


TREE = [path for tree in file_trees(DOCUMENTS["docs/architecture.md"]) for path in tree]


def test_the_architecture_page_has_a_file_tree():
    assert len(TREE) >= 10


@pytest.mark.parametrize("path", TREE)
def test_every_path_of_the_file_tree_exists(path):
    there = list(ROOT.glob(path.rstrip("/")))
    assert there
    assert not path.endswith("/") or there[0].is_dir()


def test_every_part_of_the_package_is_a_line_of_the_file_tree():
    parts = {p for p in (ROOT / "mbti_ray").iterdir() if p.suffix == ".py" or p.is_dir()}
    lines = {f"mbti_ray/{p.name}{'/' * p.is_dir()}" for p in parts if not p.name.startswith("_")}
    assert lines <= set(TREE)


def test_the_readme_is_short():
    assert len(README.split()) < 700


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.endswith(".md")])
def test_every_file_of_the_program_that_a_document_names_exists(document):
    """`mbti_ray/data/mask.py` in any document, `data/mask.py` on the architecture page."""
    named = set(re.findall(r"`(?:mbti_ray/)?([a-z_]+(?:/[a-z_]+)+\.py)", DOCUMENTS[document]))
    named -= {name for name in named if name.startswith(("tests/", "benchmarks/", "examples/"))}
    assert {
        n for n in named if not (ROOT / "mbti_ray" / n).is_file() and not (ROOT / n).is_file()
    } == set()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.endswith(".md")])
def test_every_link_to_a_file_of_the_repository_leads_to_one(document):
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)", DOCUMENTS[document]):
        assert (folder / target).exists(), target


def test_a_file_tree_is_recognized():
    text = "```\na/b.py   what it is\nc/       more\n```\n\n```sh\nmake demo   # go\n```\n"
    assert file_trees(text) == [["a/b.py", "c/"]]
