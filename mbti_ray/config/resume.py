"""What may change when a run goes on: where it runs, not what it learns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbti_ray.config.load import addresses, load_run, read_config
from mbti_ray.config.schema import RunConfig
from mbti_ray.errors import RunError

_MAY_CHANGE = ("name", "storage", "scaling.", "failure.", "serve.")


def resumed(saved: Path, overrides: Sequence[str]) -> RunConfig:
    """The saved config of a run with the command line's changes, if they may be made.

    Raises:
        RunError: An override would make it another run; the message shows every difference.
    """
    before, after = read_config(saved), load_run(str(saved), overrides)
    changes = [
        f"{address}: {_value(before, address)!r} -> {_value(after, address)!r}"
        for address in addresses(RunConfig)
        if _value(before, address) != _value(after, address) and not address.startswith(_MAY_CHANGE)
    ]
    if changes:
        raise RunError(
            f"{saved.parent}: --resume goes on with the config it began with; different here: "
            f"{'; '.join(changes)}; leave it out, or take another name"
        )
    return after


def _value(config: RunConfig, address: str) -> Any:
    value: Any = config
    for part in address.split("."):
        value = getattr(value, part)
    return value
