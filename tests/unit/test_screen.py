"""What is printed is shown as it is: no escape, no markup and no secret reaches the terminal."""

import io
from pathlib import Path

import pytest
import yaml
from rich.table import Table
from rich.text import Text
from terminal import python, run_on_terminal

from mbti_ray.cli.screen import build_console, printable
from mbti_ray.errors import mask_secrets

pytestmark = pytest.mark.unit

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e:100: [/b] [red]a"
SHOWN = "␛]0;owned␇␛[2J␍\ufffd31m\ufffd:100: [/b] [red]a"


def test_controls_become_visible_signs_and_the_rest_stays() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("naïve 🙂\ttab\nline") == "naïve 🙂\ttab\nline"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_console_shows_escapes_and_markup_of_data_literally(is_terminal: bool) -> None:
    file = io.StringIO()
    console = build_console(file=file, force_terminal=is_terminal, width=200)
    table = Table(EVIL)
    table.add_row(EVIL, Text("bold", style="bold"))
    for content in (EVIL, Text(EVIL), table):
        console.print(content)
    written = file.getvalue()
    # Rich itself drops bells and carriage returns.
    assert written.count(SHOWN.replace("␇", "").replace("␍", "")) == 4
    # Only rich's own styles are escapes.
    assert {part.partition("m")[0] for part in written.split("\x1b")[1:]} <= {"[1", "[0"}
    assert ("\x1b[1m" in written) == is_terminal


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:p%40ss/word@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("at redis://:hidden@h and s3://k:hidden@b", "at redis://:***@h and s3://k:***@b"),
        ("mysql://h/x?user=me&password=hidden", "mysql://h/x?user=me&password=***"),
        ("abfs://c@a/x?SIG=hidden&sv=1", "abfs://c@a/x?SIG=***&sv=1"),
        ("s3://b/x?session_token=hidden", "s3://b/x?session_token=***"),
        ("hdfs://host:8020/user/me@home", "hdfs://host:8020/user/me@home"),
        ("s3://b/x?scheme=http&region=x", "s3://b/x?scheme=http&region=x"),
        ("mysql://h/x?ssl_key=/etc/key.pem", "mysql://h/x?ssl_key=/etc/key.pem"),
    ],
)
def test_secrets_of_urls_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_a_file_with_escapes_in_its_name_and_in_its_data_cannot_write_to_the_terminal(
    tmp_path: Path,
) -> None:
    name = "\x1b]0;owned\x07[/b].csv"
    rows = "".join(f"INTJ,{word} some words of mine\n" for word in ("one", "two"))
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(f"type,posts\n{rows}IN\x1b[31mXJ,words\n", "utf-8")
    code, seen = run_on_terminal(
        python("audit", f"data.source={name}", "data.max_bad_share=0.9"), cwd=tmp_path
    )
    assert code == 0, seen
    assert "␛]0;owned[/b].csv" in seen
    assert "\x1b]0" not in seen
    assert "\x1b[31mXJ" not in seen
    code, seen = run_on_terminal(python("audit", "data.source=no\x1b[31m[/b]"), cwd=tmp_path)
    assert code == 2
    assert "no␛[31m[/b]" in seen


@pytest.mark.parametrize("in_file", [True, False])
def test_a_password_in_study_storage_is_refused_and_shown_nowhere(
    tmp_path: Path, in_file: bool
) -> None:
    url = "postgresql://me:hidden@127.0.0.1:9/studies"
    study = {"study": {"storage": url}, "search": {"optim.lr": {"low": 1e-5, "high": 1e-3}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study if in_file else {}), "utf-8")
    arguments = ["study.yaml"] if in_file else [f"study.storage={url}"]
    code, seen = run_on_terminal(python("tune", *arguments), cwd=tmp_path)
    assert code == 2
    assert "study.storage='postgresql://me:***@127.0.0.1:9/studies' is not allowed" in " ".join(
        seen.split()
    )
    assert "PGPASSWORD or ~/.pgpass" in seen
    assert "hidden" not in seen
    assert not (tmp_path / "runs").exists()
