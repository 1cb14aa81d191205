"""`MBTIClassifier.fit`: of data frames, with settings in words of Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mbti_ray import MBTIClassifier
from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.readers import save_frame
from mbti_ray.data.sources import read_source
from mbti_ray.errors import ConfigError, DataError, RunError

pytestmark = pytest.mark.integration

TEXTS = ["a quiet evening with a book", "we met new friends at the party"]
ROWS = {"type": ["INTJ", "ESFP"], "posts": [["one", "two"], ["three"]]}


class Exported:
    """A data frame as polars has it: one that Arrow's stream interface exports."""

    def __arrow_c_stream__(self, schema: Any = None) -> Any:
        return pa.table(ROWS).__arrow_c_stream__(schema)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(ROWS, index=[7, 3]),
        pd.DataFrame(ROWS).astype({"type": "category"}),
        Exported(),
        pa.table(ROWS),
    ],
    ids=lambda frame: type(frame).__module__.partition(".")[0],
)
def test_a_data_frame_becomes_a_source_with_the_same_rows(frame: Any, tmp_path: Path) -> None:
    file = save_frame(frame, tmp_path / "frames")
    assert save_frame(frame, tmp_path / "frames") == file
    rows = read_source(str(file), DataConfig()).rows
    assert [(row.mbti_type, row.posts) for row in rows] == [
        ("INTJ", ("one", "two")),
        ("ESFP", ("three",)),
    ]


@pytest.mark.parametrize(
    "frame",
    [7, None, object(), {"type": [object()]}, pd.Series(["a"]), pd.DataFrame({"a": [1, "b"]})],
)
def test_what_is_no_data_frame_is_refused(frame: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="allowed: a file, a hub dataset, builtin, or a data frame"):
        save_frame(frame, tmp_path)
    assert not list(tmp_path.iterdir())


def test_fit_takes_values_of_python_and_says_what_it_does_with_a_run_that_exists(
    tmp_path: Path,
) -> None:
    rows = builtin_rows(users=60)
    frame = pd.DataFrame({"type": [r.mbti_type for r in rows], "posts": [r.posts for r in rows]})
    (tmp_path / "my.yaml").write_text("preset: quick\nmodel: {reader: tfidf}\n", "utf-8")
    settings = {"storage": tmp_path / "runs", "name": "mine", "scoring.resamples": np.int64(0)}
    options: dict[str, Any] = {"preset": tmp_path / "my.yaml", "settings": settings}
    classifier = MBTIClassifier.fit(frame, **options)
    assert "TF-IDF; trained on 48 users of " in repr(classifier)
    with pytest.raises(RunError, match='mine: exists already; existing="resume" continues it, exi'):
        MBTIClassifier.fit(frame, **options)
    with pytest.raises(ConfigError, match='existing="new" is not allowed; allowed: refuse, resu'):
        MBTIClassifier.fit(frame, **options, existing="new")
    again = MBTIClassifier.fit(frame, **options, existing="fresh")
    assert again.predict(TEXTS) == classifier.predict(TEXTS)


def test_wrong_settings_are_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'^settings: .*optim\.lrr.*did you mean "?optim\.lr'):
        MBTIClassifier.fit("builtin", settings={"optim.lrr": 1e-4, "storage": str(tmp_path / "s")})
    assert not list(tmp_path.iterdir())
