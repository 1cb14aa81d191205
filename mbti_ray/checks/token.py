"""Ray's authentication token: where it is, and whether all machines have the same.

Only a hash of the token is stored or shown.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mbti_ray.checks.verdict import Verdict, group_by_value, join_names, merge_verdicts

_CHECK = "token"
_MODE = "RAY_AUTH_MODE"
_GIVEN = "RAY_AUTH_TOKEN"
_PATH = "RAY_AUTH_TOKEN_PATH"
_COPY = "copy the head's ~/.ray/auth_token there, with RAY_AUTH_MODE=token in its environment"
_HERE = "copy the head's ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token"


@dataclass(frozen=True)
class Token:
    """The token that processes on this machine would present.

    Attributes:
        mode: RAY_AUTH_MODE.
        path: Where the token was looked for: a file or a variable.
        digest: The first digits of its hash; None if there is no token.
        is_named: Whether the environment names its path.
        is_exposed: Whether other users of the machine can read its file.
    """

    mode: str | None
    path: str
    digest: str | None
    is_named: bool = False
    is_exposed: bool = False

    @property
    def is_on(self) -> bool:
        return self.mode is not None and self.mode.lower() == "token"


def find_token(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Token:
    """The token of this machine, looked for where Ray looks."""
    mode = environment.get(_MODE)
    if environment.get(_GIVEN):
        return Token(mode, _GIVEN, _digest(environment[_GIVEN]), is_named=True)
    path = Path(environment.get(_PATH) or (home or Path.home()) / ".ray" / "auth_token")
    try:
        path = path.expanduser()
        text = path.read_text("utf-8").strip()
        is_exposed = bool(path.stat().st_mode & 0o077)
    except (OSError, UnicodeDecodeError):
        text, is_exposed = "", False
    digest = _digest(text) if text else None
    return Token(mode, str(path), digest, _PATH in environment, is_exposed)


def judge_token(token: Token, *, joins: bool) -> Verdict:
    """The token of one machine.

    Args:
        joins: Whether the machine connects to a Ray that runs elsewhere.
    """
    if token.digest is None and (token.is_named or (token.is_on and joins)):
        asked = _PATH if token.is_named else f"{_MODE}=token"
        return Verdict(_CHECK, "wrong", f"{asked} is set, but {token.path} has no token", _HERE)
    if token.digest is None:
        return Verdict(_CHECK, "ok", "none; required as soon as there is a second machine")
    if token.is_exposed:
        return _judge_exposed(token)
    if not token.is_on:
        return Verdict(
            _CHECK,
            "ok",
            f"found in {token.path}; a worker started here with `ray start --address` presents it "
            f"only with {_MODE}=token",
        )
    return Verdict(_CHECK, "ok", f"{_MODE}=token, with the token in {token.path}")


def judge_tokens(by_machine: Mapping[str, Token], *, is_required: bool) -> list[Verdict]:
    """The tokens of the machines of a cluster.

    Args:
        is_required: Whether the cluster requires a token.
    """
    exposed = {machine: _judge_exposed(t) for machine, t in by_machine.items() if t.is_exposed}
    if exposed:
        return merge_verdicts(exposed)
    several = len(by_machine) > 1
    if not is_required:
        if not several:
            return [Verdict(_CHECK, "ok", "not required, and there is only one machine")]
        remedy = (
            "`ray get-auth-token --generate` once, the same file on all machines, and "
            f"{_MODE}=token before each `ray start`"
        )
        message = "not required: whoever reaches Ray's ports can run code on all machines"
        return [Verdict(_CHECK, "warning", message, remedy)]
    groups = group_by_value({machine: token.digest for machine, token in by_machine.items()})
    if len(groups) == 1:
        where = f", the same on {len(by_machine)} nodes" if several else ""
        return [Verdict(_CHECK, "ok", f"required{where}")]
    common = next(iter(groups))
    odd = [machine for digest, where in groups.items() if digest != common for machine in where]
    message = (
        f"{join_names(odd)} would present a different token, or none, when Ray starts there again"
    )
    return [Verdict(_CHECK, "warning", message, _COPY)]


def _judge_exposed(token: Token) -> Verdict:
    message = f"{token.path} can be read by other users, who could run code on all machines"
    return Verdict(_CHECK, "warning", message, f"chmod 600 {token.path}")


def judge_refused_token(token: Token, address: str) -> Verdict:
    """The verdict for a machine that the cluster refused."""
    shown = f"the token in {token.path}" if token.digest else f"no token (none in {token.path})"
    message = f"{address} refused this machine, which presented {shown}"
    return Verdict(_CHECK, "wrong", message, _HERE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
