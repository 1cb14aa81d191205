"""docs/configuration.md is what the schema says."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mbti_ray.config import StudyConfig
from mbti_ray.config.settings import settings_of

pytestmark = pytest.mark.contracts

SCRIPT = Path(__file__).parents[2] / "docs" / "make_configuration.py"


def test_the_configuration_page_is_written_from_the_schema() -> None:
    spec = spec_from_file_location("make_configuration", SCRIPT)
    assert spec
    assert spec.loader
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text("utf-8") == script.page(), "run python docs/make_configuration.py"


def test_every_setting_says_what_it_means() -> None:
    assert [s.key for s in settings_of(StudyConfig) if not s.meaning] == []
