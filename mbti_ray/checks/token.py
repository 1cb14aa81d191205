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
_MODE, _GIVEN, _PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_COPY = f"copy the head's ~/.ray/auth_token there, with {_MODE}=token in its environment"
_HERE = f"copy the head's ~/.ray/auth_token to this machine and set {_MODE}=token"


@dataclass(frozen=True)
class Token:
    """The token that processes on this machine would present.

    Attributes:
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


def find_token(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Token:
    """The token of this machine, looked for where Ray looks."""
    mode = environment.get(_MODE)
    if environment.get(_GIVEN):
        return Token(mode, _GIVEN, _digest(environment[_GIVEN]), is_named=True)
    path = Path(environment.get(_PATH) or (home or Path.home()) / ".ray" / "auth_token")
    try:
        text = path.expanduser().read_text("utf-8").strip()
        is_exposed = bool(path.expanduser().stat().st_mode & 0o077)
    except (OSError, UnicodeDecodeError):
        text, is_exposed = "", False
    return Token(mode, str(path), _digest(text) if text else None, _PATH in environment, is_exposed)


def judge_token(token: Token, *, joins: bool) -> Verdict:
    """The token of one machine; `joins`: whether it connects to a Ray that runs elsewhere."""
    is_on = (token.mode or "").lower() == "token"
    if token.digest is None:
        if token.is_named or (is_on and joins):
            asked = _PATH if token.is_named else f"{_MODE}=token"
            message = f"{asked} is set, but {token.path} has no token"
            return Verdict(_CHECK, "wrong", message, _HERE)
        return Verdict(_CHECK, "ok", "none; required as soon as there is a second machine")
    if token.is_exposed:
        return _judge_exposed(token)
    if is_on:
        return Verdict(_CHECK, "ok", f"{_MODE}=token, with the token in {token.path}")
    message = "a worker started here with `ray start --address` presents it only with"
    return Verdict(_CHECK, "ok", f"found in {token.path}; {message} {_MODE}=token")


def judge_tokens(by_machine: Mapping[str, Token], *, is_required: bool) -> list[Verdict]:
    """The tokens of the machines of a cluster, which requires one or does not."""
    exposed = {machine: _judge_exposed(t) for machine, t in by_machine.items() if t.is_exposed}
    if exposed:
        return merge_verdicts(exposed)
    several = len(by_machine) > 1
    if not is_required and several:
        remedy = f"`ray get-auth-token --generate` once, then on each machine: {_COPY}"
        message = "not required: whoever reaches Ray's ports can run code on all machines"
        return [Verdict(_CHECK, "warning", message, remedy)]
    if not is_required:
        return [Verdict(_CHECK, "ok", "not required, and there is only one machine")]
    _, *others = group_by_value({m: t.digest for m, t in by_machine.items()}).values()
    if others:
        odd = join_names(machine for machines in others for machine in machines)
        message = f"{odd} would present a different token, or none, when Ray starts there again"
        return [Verdict(_CHECK, "warning", message, _COPY)]
    where = f", the same on {len(by_machine)} nodes" if several else ""
    return [Verdict(_CHECK, "ok", f"required{where}")]


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
