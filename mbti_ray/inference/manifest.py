"""bundle.json: what a bundle says about itself, as a strict typed record.

Whoever wrote a bundle may have wanted harm, or a disk may have damaged it: unknown keys, wrong
types, numbers that are not finite and paths out of the bundle are refused. Must not know weights.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mbti_ray.config.data_section import MaskKind
from mbti_ray.config.schema import ModelConfig
from mbti_ray.config.section import Count, Positive
from mbti_ray.errors import BundleError, one_line
from mbti_ray.scores.calibration import LengthScaling
from mbti_ray.storage.atomic import write_text
from mbti_ray.storage.checksums import FileRecord
from mbti_ray.typology import POSITIVE_POLES

_FORMAT = 1
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_FILE_NAME = "[A-Za-z0-9_][A-Za-z0-9._-]*"

OnnxKind = Literal["onnx", "onnx-int8"]
FileName = Annotated[str, Field(pattern=f"^{_FILE_NAME}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
# One number for each of E, N, T, J.
_Four = Field(min_length=4, max_length=4)
FourLogits = Annotated[list[float], _Four]


class GoldenText(BaseModel):
    """A text and the logits that the bundle computed for it when it was written."""

    model_config = _STRICT

    text: str
    logits: FourLogits


class RuntimeExport(FileRecord):
    """A graph for ONNX Runtime, with its golden logits [G, 4] and their largest gap to the
    bundle's.

    `scores` are compared with those of torch on the same rows.
    """

    file: Annotated[str, Field(pattern=f"^onnx/{_FILE_NAME}$")]
    golden: list[FourLogits]
    golden_gap: float = 0.0
    scores: dict[str, Any] = Field(default_factory=dict)


class DecisionRule(BaseModel):
    """How logits become letters, fitted on the validation split.

    Attributes:
        thresholds: Probability above which the positive pole is predicted, in the order E, N, T, J.
        temperature: Divides the logits before the sigmoid, in the order E, N, T, J.
        abstain: A probability closer to its threshold than this is answered with X.
        length: How the temperatures change with the tokens read; None where they do not.
    """

    model_config = _STRICT

    thresholds: Annotated[list[Probability], _Four] = [0.5] * 4
    temperature: Annotated[list[Positive], _Four] = [1.0] * 4
    abstain: Probability = 0.0
    length: LengthScaling | None = None

    def temperatures(self, tokens: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """The temperatures [R, 4] of rows of which so many tokens were read [R]."""
        factors = (
            self.length.factors(np.asarray(tokens)) if self.length else np.ones((len(tokens), 4))
        )
        return np.asarray(factors * np.array(self.temperature))


class Manifest(DecisionRule):
    """The contents of bundle.json.

    Attributes:
        id: First 12 hex digits of a hash over weights, architecture and tokenizer.
        mask_version: 0 where nothing was masked.
        max_windows: Read of a person at most, also by a bundle that was trained on single posts.
        files: Size and SHA-256 of every other file, except those of `runtimes` and card.md.
        data: `DatasetInfo` as the version that wrote the bundle had it.
        base_rates: Share of each positive pole that the probabilities assume: that of the windows
            or persons in the loss, as its weights change it. None in older bundles.
        golden: Texts with their logits, which every runtime has to reproduce.
        runtimes: Exports by `serve.runtime`.
    """

    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    created: str
    labels: list[str]
    unit: Literal["user", "post"]
    mask_version: Annotated[int, Field(ge=0)]
    mask_also: list[MaskKind]
    max_windows: Count
    model: ModelConfig
    data: dict[str, Any]
    scores: dict[str, Any]
    versions: dict[str, str]
    files: dict[FileName, FileRecord]
    config: dict[str, Any]
    golden: Annotated[list[GoldenText], Field(min_length=1)]
    base_rates: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], _Four] | None = None
    format: Literal[1] = 1
    runtimes: dict[OnnxKind, RuntimeExport] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_labels_and_exports(self) -> Self:
        if self.labels != list(POSITIVE_POLES):
            raise ValueError(f"labels are {self.labels}; allowed: {list(POSITIVE_POLES)}")
        for kind, export in self.runtimes.items():
            if len(export.golden) != len(self.golden):
                raise ValueError(f"runtimes.{kind} does not have the logits of all golden texts")
        return self


def load_manifest(folder: Path) -> Manifest:
    """The contents of bundle.json; a BundleError if it is missing, damaged or of another format."""
    path = folder / "bundle.json"
    try:
        content = json.loads(
            path.read_text("utf-8"), parse_constant=_finite_float, parse_float=_finite_float
        )
        if isinstance(content, dict) and content.get("format") != _FORMAT:
            version = one_line(content.get("format"), limit=40)
            raise BundleError(f"{path}: format {version}; this version reads {_FORMAT}")
        manifest = Manifest.model_validate(content)
        # Fails on what is nested too deeply to be sent as JSON.
        manifest.model_dump_json()
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder}: not a bundle (it contains no bundle.json)") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "contents"
        reason = f"{where}: {first['msg'].removeprefix('Value error, ')}"
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error, limit=160)
    raise BundleError(f"{path}: is damaged ({one_line(reason)}); copy the bundle again")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json; readers see the old contents or the new ones."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_text(folder / "bundle.json", text + "\n")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
