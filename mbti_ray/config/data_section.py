"""The section `data` of a config: the source, what one row is, and how rows are split."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mbti_ray.config.section import ConfigSection, Count, Share, Text

# What may be masked besides type words and URLs.
MaskKind = Literal["functions", "temperaments", "axes"]
# A shell passes `\t` as two characters.
Separator = Annotated[
    str,
    BeforeValidator(lambda v: "\t" if v in ("tab", "\\t") else v),
    Field(min_length=1, max_length=1),
]


class ColumnNames(ConfigSection):
    """Names of the columns of a source, where they are not the usual ones in any case."""

    text: Text | None = None
    """column of the texts; null: posts or text"""
    type: Text | None = None
    """column of the types; null: type"""
    author: Text | None = None
    """column of the authors; null: author"""
    id: Text | None = None
    """column copied to predictions; null: id"""


class DataConfig(ConfigSection):
    """The source, what one row is, and how rows are split."""

    source: str = "builtin"
    """builtin, a file (.csv, .tsv, .jsonl, .json, .parquet, also in .gz or .zip), a saved dataset
    folder, or a hub name"""
    columns: ColumnNames = ColumnNames()
    separator: Separator | None = None
    """between the cells of a CSV file; null: guessed from its header"""
    shares_of: Literal["ENTJ", "ISFP"] = "ENTJ"
    """the poles whose shares (0 to 1) the columns E, N, T and J contain"""
    unit: Literal["user", "post"] = "user"
    """one row of the model's data: all posts of a user, or one post"""
    join_rows: Literal["auto", "always", "never"] = "auto"
    """make one user of the rows of an author; auto: unless each has several posts"""
    conflicting_types: Literal["refuse", "majority", "leave_out"] = "refuse"
    """what to do with authors that have more than one type"""
    split_by: Literal["auto", "author", "user", "post"] = "auto"
    """what is never in two splits; auto: author if there is one"""
    mask: bool = True
    """mask type words and URLs"""
    mask_also: tuple[MaskKind, ...] = ()
    """with mask, also mask functions (Ni-Te), temperaments (NT, SJ), axes (introvert, sensor)"""
    val_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """validation share"""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """test share"""
    folds: Annotated[int, Field(ge=2, le=50)] | None = None
    """cross-validation by persons: so many runs (in a study, for each trial), each tested on
    another part of the rows, and a bundle trained on all of them"""
    fold: Annotated[int, Field(ge=1)] | None = None
    """which of data.folds is the test split, counted from 1; train sets it"""
    max_bad_share: Share = 0.01
    """refuse a source with more bad rows"""
    max_windows: Count = 32
    """windows read of one user at most"""
    max_posts: Count = 128
    """the same for model.reader=posts, where a window is a post or part of it"""

    @property
    def trains_on_all(self) -> bool:
        """Whether all rows are trained on, because the folds have been scored."""
        return self.folds is not None and self.fold is None

    @model_validator(mode="after")
    def _fold_is_one_of_folds(self) -> "DataConfig":
        if self.fold is not None and self.fold > (self.folds or 0):
            raise ValueError(f"fold={self.fold} is none of data.folds={self.folds}")
        return self
