"""Fine-tune a text encoder with four binary MBTI heads on Ray, tune it, and serve it.

Importing this package loads neither torch nor Ray.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MBTIClassifier", "__version__"]

if TYPE_CHECKING:
    from mbti_ray.mbti_classifier import MBTIClassifier


def __getattr__(name: str) -> Any:
    if name == "MBTIClassifier":
        from mbti_ray.mbti_classifier import MBTIClassifier

        return MBTIClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
