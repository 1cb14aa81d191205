"""What all commands share: argument parsing, exit codes, one-line errors, the JSON line.

Imports nothing heavy: `--help` and user errors are answered before torch or Ray is loaded.
"""

import argparse
import errno
import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from mbti_ray.cli.screen import print_error, wrap
from mbti_ray.cli.tables import Result, console
from mbti_ray.config import PRESETS, StudyConfig
from mbti_ray.config.settings import address_of, config_addresses
from mbti_ray.errors import ConfigError, MbtiRayError, mask_secrets, one_line

Command = Callable[[argparse.Namespace], Result]


def build_parser(
    verb: str,
    description: str,
    *,
    items: str,
    examples: Sequence[str] = (),
    prog: str = "python -m mbti_ray.",
) -> argparse.ArgumentParser:
    """A parser with positional items, whose help is `items`, and `--json`.

    The examples are what may follow the verb; `prog` is how it is called, up to the verb.
    """
    lines = [f"  {prog}{verb} {example}" for example in examples]
    parser = argparse.ArgumentParser(
        prog=f"{prog}{verb}",
        description="\n\n".join(wrap(p, 80, indent=0) for p in description.split("\n\n")),
        epilog="\n".join(["examples:", *lines]) if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("items", nargs="*", metavar="ITEM", help=items)
    parser.add_argument("--json", action="store_true", help="print one JSON object as last line")
    return parser


def add_existing(parser: argparse.ArgumentParser) -> None:
    """The options that decide what happens to an existing run folder."""
    group = parser.add_mutually_exclusive_group()
    for name, text in (
        ("resume", "resume the run called name=..., or the newest of this kind"),
        ("fresh", "delete the run called name=... first"),
    ):
        group.add_argument(
            f"--{name}", dest="existing", action="store_const", const=name, help=text
        )
    parser.set_defaults(existing="refuse")


def add_base_rates(parser: argparse.ArgumentParser) -> None:
    """The option that says of what people the texts are."""
    parser.add_argument(
        "--base-rates",
        default="",
        metavar="E=0.5,N=0.3",
        help="share of E, N, T or J among the people asked (default: as in the training data)",
    )


class _Terminated(KeyboardInterrupt):
    """SIGTERM.

    Not a KeyboardInterrupt itself: where one has passed through the C interface of Python, as while
    extensions are imported, CPython ends the process as if by SIGINT.
    """


# The SIGTERMs of the command that runs.
_received: list[signal.Signals] = []


def check_terminated() -> None:
    """End the command if it was told to; extensions may drop the exception that said so."""
    if _received:
        raise _Terminated


def run_command(
    parser: argparse.ArgumentParser,
    command: Command,
    argv: Sequence[str] | None = None,
    *,
    exit_code: Callable[[Result], int] = lambda result: 0,
) -> int:
    """Parse, run, print; returns 2 for a user error, 130 or 143 after a signal, or `exit_code`."""
    options, unknown = parser.parse_known_intermixed_args(argv)
    _received.clear()

    def stop(number: int, frame: object) -> None:
        _received.append(signal.Signals(number))
        raise _Terminated

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        # Until now (see mbti_ray/__init__.py).
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _refuse_options(parser, unknown, options.items)
        result = command(options)
    except MbtiRayError as error:
        for line in str(error).splitlines():
            print_error(mask_secrets(line))
        return error.exit_code
    except OSError as error:
        # Whether a file is there is asked in many places, and raises this for a whole text.
        if error.errno != errno.ENAMETOOLONG:
            raise
        print_error(f"{one_line(error.filename, limit=60)}: is too long for the name of a file")
        return 2
    except KeyboardInterrupt:
        print_error("stopped")
        return 128 + (_received or [signal.SIGINT])[-1]
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if options.json:
        console.print(json.dumps(result), soft_wrap=True)
    return exit_code(result)


def _refuse_options(
    parser: argparse.ArgumentParser, unknown: Sequence[str], items: Sequence[str]
) -> None:
    """Raises ConfigError for `--epochs`, with the setting that is meant; exits for others."""
    if not unknown:
        return
    option, _, value = unknown[0].partition("=")
    name = option.lstrip("-").replace("-", "_")
    key = address_of(name, config_addresses(StudyConfig))
    if not option.startswith("--") or key is None:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    words = [*unknown[1:], *items]
    value = value or next((w for w in words if "=" not in w and w not in PRESETS), "...")
    raise ConfigError(
        f"command line: {option} is not an option; settings are key=value: {key}={value}"
    )


def command_prefix(verb: str) -> str:
    """How a command is typed here, as this one was: `mbti-ray serve` or by `python -m`."""
    if Path(sys.argv[0]).stem == "mbti-ray":
        return f"{shlex.quote(relative(sys.argv[0]) if '/' in sys.argv[0] else 'mbti-ray')} {verb}"
    return f"{shlex.quote(relative(sys.executable))} -m mbti_ray.{verb}"


def relative(path: object) -> str:
    """A path as it is typed in the current folder: relative where it lies below it."""
    text = str(path)
    return text.removeprefix(f"{Path.cwd()}/") if text.startswith("/") else text


def split_base(items: Sequence[str]) -> tuple[str | None, list[str]]:
    """The preset or file that comes first, if any, and the `key=value` arguments.

    ConfigError for an empty one: what was meant by it must not become the newest or the default.
    """
    if "" in items:
        raise ConfigError("command line: an argument is empty, as that of an unset shell variable")
    # A URL may have a query string.
    if items and ("=" not in items[0] or "://" in items[0].partition("=")[0]):
        return items[0], list(items[1:])
    return None, list(items)
