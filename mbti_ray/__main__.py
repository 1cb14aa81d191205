"""`mbti-ray VERB ...`: the same as `python -m mbti_ray.VERB ...`, and two tools besides."""

import sys
from collections.abc import Sequence
from importlib import import_module

from mbti_ray import __version__
from mbti_ray.errors import nearest

VERBS = {
    "train": "train one run",
    "tune": "search hyperparameters",
    "evaluate": "score a bundle on labeled rows",
    "compare": "compare two bundles on the same persons",
    "predict": "predict texts or a file",
    "export": "export a bundle to ONNX Runtime or transformers",
    "serve": "start the HTTP service",
    "audit": "describe a data file",
    "doctor": "check whether the configuration can run here",
}
# In `cli`: they start nothing, and mbti_ray.config is a package.
TOOLS = {
    "config": "show every setting of a preset or file",
    "completion": "print a script for completion in bash or zsh",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the given command with the rest of the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: mbti-ray VERB ...   (details: mbti-ray VERB --help)\n")
        for verb, description in (VERBS | TOOLS).items():
            print(f"  {verb:10} {description}")
        return 0
    verb = arguments[0]
    if verb == "--version":
        print(__version__)
        return 0
    known = [*VERBS, *TOOLS]
    if verb not in known:
        allowed = ", ".join(known) + nearest(verb, known)
        print(f'unknown command "{verb}"; allowed: {allowed}', file=sys.stderr)
        return 2
    try:
        module = import_module(f"mbti_ray.cli.{verb}" if verb in TOOLS else f"mbti_ray.{verb}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
