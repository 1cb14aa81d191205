"""Fine-tune a text encoder with four binary MBTI heads on Ray, tune it, and serve it.

Importing this package loads neither torch nor Ray.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MBTIClassifier", "__version__"]

# Beside another busy process two threads of torch may share a core. At each barrier, and a pass has
# hundreds, one of them then spins while it keeps the other from running: by libgomp's default for
# its whole time slice. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# While `python -m mbti_ray.VERB` imports its modules, which is when Python shows this argument,
# Ctrl-C ends it without a traceback; then `run_command` handles it.
_is_command = sys.argv[:1] == ["-m"] and any(word.startswith("mbti_ray.") for word in sys.orig_argv)
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if TYPE_CHECKING:
    from mbti_ray.mbti_classifier import MBTIClassifier


def __getattr__(name: str) -> Any:
    if name == "MBTIClassifier":
        from mbti_ray.mbti_classifier import MBTIClassifier

        return MBTIClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
