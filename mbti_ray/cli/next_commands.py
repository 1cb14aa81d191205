"""What a user may do next, as commands to copy into the same shell. Must not know their layout."""

import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from mbti_ray.cli.command import command_prefix, relative
from mbti_ray.config.study import StudyOptions
from mbti_ray.runs.run_folder import RunFolder

_TEXT = "I would rather read than go out."


def commands_for(folder: RunFolder, study: StudyOptions | None = None) -> dict[str, str]:
    """How to look at a run or study, serve it, ask it; explore a study and repeat its best run."""
    place = shlex.quote(relative(folder.location))
    commands = {}
    if folder.remote is None:
        opener = "open" if sys.platform == "darwin" else "xdg-open"
        commands["look"] = f"{opener} {shlex.quote(relative(folder.report))}"
    commands["serve"] = f"{command_prefix('serve')} {place}"
    commands["ask"] = ask_command("http://localhost:8000")
    if study is not None and (database := _database(folder, study)):
        missing = "" if find_spec("optuna_dashboard") else "  # pip install optuna-dashboard"
        commands["explore"] = f"optuna-dashboard {shlex.quote(database)}{missing}"
    if study is not None:
        config = shlex.quote(relative(folder.best.location / folder.config.name))
        repeated = f"{folder.location.name}-again"
        commands["repeat"] = f"{command_prefix('train')} {config} name={repeated}"
    return commands


def _database(folder: RunFolder, study: StudyOptions) -> str | None:
    """The study's database as optuna-dashboard opens it; None if it is a file in a bucket."""
    if study.storage not in (None, "journal"):
        return study.storage
    if folder.remote is not None:
        return None
    place = relative(folder.path)
    return f"{place}/optuna.journal" if study.storage else f"sqlite:///{place}/optuna.db"


def ask_command(url: str) -> str:
    """A request to a service."""
    body = json.dumps({"inputs": _TEXT})
    return f"curl -s {url}/predict -H 'Content-Type: application/json' -d '{body}'"


def watch_commands(dashboard: str | None) -> dict[str, str]:
    """Where Ray's dashboard is, and what prints the token that it asks for."""
    if not dashboard:
        return {}
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return {"watch": dashboard}
    ray = Path(sys.executable).with_name("ray")
    program = shlex.quote(relative(ray)) if ray.exists() else "ray"
    return {"watch": dashboard, "token": f"{program} get-auth-token"}
