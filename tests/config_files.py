"""What tests of configs share: a search space, and the lines with which something is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from mbti_ray.errors import ConfigError

LR_SEARCH = "search: {optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}}\n"


def mistakes_of(load: Callable[..., Any], *arguments: Any) -> list[str]:
    """The lines with which something is refused."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value).splitlines()
