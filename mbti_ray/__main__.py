"""`mbti-ray VERB ...`: the same as `python -m mbti_ray.VERB ...`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from mbti_ray import __version__
from mbti_ray.errors import nearest

VERBS = {
    "train": "train one run",
    "tune": "search hyperparameters",
    "evaluate": "score a bundle on labelled rows",
    "predict": "predict texts or a file",
    "export": "make a bundle fast on a CPU: ONNX Runtime, float32 and int8",
    "serve": "start the HTTP service",
    "audit": "say what is in a data file",
    "doctor": "check whether what is configured can run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to the verb in front."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: mbti-ray VERB ...   (mbti-ray VERB --help says more)\n")
        for verb, does in VERBS.items():
            print(f"  {verb:10} {does}")
        return 0
    verb = arguments[0]
    if verb == "--version":
        print(__version__)
        return 0
    if verb not in VERBS:
        allowed = ", ".join(VERBS)
        print(f'"{verb}" is no verb; allowed: {allowed}{nearest(verb, VERBS)}', file=sys.stderr)
        return 2
    return int(import_module(f"mbti_ray.{verb}").main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
