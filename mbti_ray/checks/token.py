"""The token with which Ray's processes know each other: where it is, and whether all have it.

The token itself is never kept or shown, only a hash of it.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mbti_ray.checks.verdict import Verdict, group_by_value, join_names

_CHECK = "token"
_MODE = "RAY_AUTH_MODE"
_GIVEN = "RAY_AUTH_TOKEN"
_PATH = "RAY_AUTH_TOKEN_PATH"
_COPY = "copy the head's ~/.ray/auth_token there, with RAY_AUTH_MODE=token in its environment"
_HERE = "copy the head's ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token"


@dataclass(frozen=True)
class Token:
    """What a process of this machine would show.

    Attributes:
        mode: RAY_AUTH_MODE; None where it is not set.
        place: Where the token was looked for.
        digest: The first digits of its hash; None where there is none.
        is_named: Whether the environment says where it is.
    """

    mode: str | None
    place: str
    digest: str | None
    is_named: bool = False

    @property
    def is_on(self) -> bool:
        return self.mode is not None and self.mode.lower() == "token"


def find_token(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Token:
    """The token of this machine, looked for as Ray does."""
    mode = environment.get(_MODE)
    if environment.get(_GIVEN):
        return Token(mode, _GIVEN, _digest(environment[_GIVEN]), is_named=True)
    path = Path(environment.get(_PATH) or (home or Path.home()) / ".ray" / "auth_token")
    try:
        text = path.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    is_named = _PATH in environment
    return Token(mode, str(path), _digest(text) if text else None, is_named=is_named)


def judge_token(token: Token, *, joins: bool) -> Verdict:
    """Of one machine.

    Args:
        joins: Whether it is to work with a Ray that runs elsewhere.
    """
    if token.digest is None and (token.is_named or (token.is_on and joins)):
        asked = _PATH if token.is_named else f"{_MODE}=token"
        return Verdict(_CHECK, "wrong", f"{asked} is set, but {token.place} holds none", _HERE)
    if token.digest is None:
        return Verdict(_CHECK, "ok", "none; needed as soon as there is a second machine")
    if not token.is_on:
        return Verdict(
            _CHECK,
            "ok",
            f"there is one ({token.place}); a worker that is started here with `ray start "
            f"--address` shows it only with {_MODE}=token",
        )
    return Verdict(_CHECK, "ok", f"{_MODE}=token, with the one of {token.place}")


def judge_tokens(by_machine: Mapping[str, Token], *, is_asked_for: bool) -> list[Verdict]:
    """Of the machines of a cluster.

    Args:
        is_asked_for: Whether the cluster lets only those in that show it.
    """
    several = len(by_machine) > 1
    if not is_asked_for:
        if not several:
            return [Verdict(_CHECK, "ok", "not asked for, and there is one machine only")]
        remedy = (
            "`ray get-auth-token --generate` once, the same file on all machines, and "
            f"{_MODE}=token before each `ray start`"
        )
        found = "not asked for: whoever reaches Ray's ports can run code on all machines"
        return [Verdict(_CHECK, "warning", found, remedy)]
    groups = group_by_value({machine: token.digest for machine, token in by_machine.items()})
    if len(groups) == 1:
        where = f", the same on {len(by_machine)} nodes" if several else ""
        return [Verdict(_CHECK, "ok", f"asked for{where}")]
    common = next(iter(groups))
    odd = [machine for digest, where in groups.items() if digest != common for machine in where]
    found = (
        f"{join_names(odd)} would show another one, or none, when Ray starts there the next time"
    )
    return [Verdict(_CHECK, "warning", found, _COPY)]


def judge_refused_token(token: Token, address: str) -> Verdict:
    """This machine was not let in."""
    has = f"the token of {token.place}" if token.digest else f"no token ({token.place} has none)"
    found = f"{address} does not let this machine in: it shows {has}"
    return Verdict(_CHECK, "wrong", found, _HERE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
