"""What is known of a prepared dataset besides its tokens; kept in the cache and in every bundle.

A plain record, so that bundles can be read and written without the code that prepares data.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from mbti_ray.data.rows import BadRow


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset comes from, how it was split and masked, and what was left out.

    Attributes:
        rows: Rows by split.
        person: What counts as one person: author or user.
        mask_version: 0 where nothing was masked.
        bad: Rows that were left out.
        repaired: Rows whose text encoding was repaired.
        truncated: Rows with more text than the model reads.
        held_out_posts: Posts in val and test.
        shared_posts: Those of them whose text is also in train.
        notes: How the source was read, where a user should know.
        warnings: What makes scores on this data doubtful, a line each.
    """

    source: str
    fingerprint: str
    split_by: str
    person: str
    rows: dict[str, int]
    mask_version: int
    mask_also: list[str]
    bad: list[BadRow]
    repaired: int
    truncated: int
    held_out_posts: int = 0
    shared_posts: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
