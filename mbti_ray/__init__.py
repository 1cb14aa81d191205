"""Fine-tune a text encoder with four binary MBTI heads on Ray, tune it, and serve it.

Importing this package loads neither torch nor Ray.
"""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MBTIClassifier", "__version__"]

# Beside another busy process two threads of torch may share a core. At each barrier, and a pass has
# hundreds, one of them then spins while it keeps the other from running: by libgomp's default for
# its whole time slice. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if TYPE_CHECKING:
    from mbti_ray.mbti_classifier import MBTIClassifier


def __getattr__(name: str) -> Any:
    if name == "MBTIClassifier":
        from mbti_ray.mbti_classifier import MBTIClassifier

        return MBTIClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
