"""What the benchmarks compare with has to be installed: said before anything is begun."""

import sys
from importlib.util import find_spec
from pathlib import Path


def require_bench(*packages: str) -> None:
    """End the script with one sentence if a package of the extra `bench` is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        sys.exit(
            f"benchmarks/{Path(sys.argv[0]).name} needs {', '.join(missing)}; install with "
            "pip install 'mbti_ray[bench]'"
        )
