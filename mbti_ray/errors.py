"""The exceptions that a user can cause, and that every command prints as one line.

    MbtiRayError
    ├── ConfigError     a key, a value, a preset, a study file
    ├── DataError       a file, a row, a split
    ├── BundleError     a bundle that is damaged or does not reproduce its golden logits
    ├── RunError        a run or study folder exists already or is missing, training diverged
    │   ├── StorageError  a disk or bucket cannot be reached, is full, or refuses (also an OSError)
    │   └── StoppedError  a stop was requested: no error of anybody, but the run is not finished
    └── ClusterError    resources that are missing, an extra that is not installed on a node

A message says where, what was given, what is allowed and the nearest fix. Any other exception is a
bug of this program and keeps its traceback.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# The password of a URL, but not a port; and the values of options that are secret.
_PASSWORD = re.compile(r"(://[^/:@\s]*:)(?!\d+/)[^@\s]*@")
_OPTION = re.compile(
    r"(?i)([?&](?:[\w-]*(?:token|secret|passw|signature|credential)[\w-]*|sig|pwd|"
    r"(?:access|account|api)[_-]?key)=)[^&\s\"']*"
)


class MbtiRayError(Exception):
    """Base of all errors that the user's input can cause; a command exits with `exit_code`."""

    exit_code = 2


class ConfigError(MbtiRayError):
    """The configuration has an unknown key, or a value that is not allowed or does not exist."""


class DataError(MbtiRayError):
    """The data cannot be read, or cannot be used as it is."""


class BundleError(MbtiRayError):
    """A bundle is incomplete, damaged, or does not reproduce its own golden logits."""


class RunError(MbtiRayError):
    """A run folder exists already or is missing, or the training cannot continue."""


class StorageError(RunError, OSError):
    """A disk or bucket cannot be reached, is full, or does not take or give what it is asked."""


class StoppedError(RunError):
    """A stop was requested, by a signal or otherwise, and what was running is saved."""

    def __init__(self, message: str, number: int = 15) -> None:
        super().__init__(message)
        # What a shell reports of a process that this signal ended.
        self.exit_code = 128 + number


class ClusterError(MbtiRayError):
    """The cluster or machine does not have what the configuration asks for."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """``; did you mean "x"?`` for the closest allowed name, or an empty string."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def counted(number: int, noun: str) -> str:
    """``1 trial``, ``2,000 trials``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def one_line(message: object, *, limit: int = 1000) -> str:
    """The words of an exception or another message in one line, cut where they are too long.

    An exception without words gives the name of its class.
    """
    text = " ".join(str(message).split())
    if not text and isinstance(message, BaseException):
        return type(message).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def mask_secrets(text: str) -> str:
    """The text with ``***`` for passwords and secret options of the URLs in it."""
    return _OPTION.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))
