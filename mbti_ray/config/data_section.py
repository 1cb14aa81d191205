"""The section `data` of a config: the source, what one row is, and how rows are split."""

from typing import Annotated, Literal

from pydantic import Field

from mbti_ray.config.section import ConfigSection, Count, Share

# What may be masked besides type words and URLs.
MaskKind = Literal["functions", "temperaments", "axes"]


class DataConfig(ConfigSection):
    """The source, what one row is, and how rows are split."""

    source: str = Field(
        "builtin",
        description="builtin, a .csv/.jsonl/.parquet file, a saved dataset folder, or a hub name",
    )
    unit: Literal["user", "post"] = Field(
        "user", description="one row of the model's data: all posts of a user, or one post"
    )
    split_by: Literal["auto", "author", "user", "post"] = Field(
        "auto", description="what is never in two splits; auto: author if there is one"
    )
    mask: bool = Field(True, description="mask type words and URLs")
    mask_also: tuple[MaskKind, ...] = Field(
        (),
        description="with mask, also mask functions (Ni-Te), temperaments (NT, SJ), axes "
        "(introvert, sensor)",
    )
    val_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.1, description="validation share")
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.1, description="test share")
    max_bad_share: Share = Field(0.01, description="refuse a source with more bad rows")
    max_windows: Count = Field(32, description="windows read of one user at most")
