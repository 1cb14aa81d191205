"""A cluster on test hosts, made once for each file of tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from lan import Switch, switched_on, why_not


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """What the hosts hang on."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("hosts")
    with switched_on(folder) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(switch: Switch) -> Cluster:
    """A laptop, a head and two workers of one CPU, with `ray up` behind them."""
    made = Cluster(switch, workers=2)
    made.up()
    return made
