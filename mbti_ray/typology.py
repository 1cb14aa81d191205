"""What a label is: the four dimensions, their poles, and the sixteen types.

The only place that knows the order E/I, S/N, T/F, J/P and that E, N, T and J are the positive
poles. Knows nothing of tensors, files or models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mbti_ray.errors import DataError, counted


@dataclass(frozen=True)
class Dimension:
    """One of the four axes.

    Attributes:
        name: As people write it, for example ``"E/I"``.
        key: As it stands in score names, for example ``"ei"`` in ``acc_ei``.
        positive: The pole that a label of 1 means.
        negative: The pole that a label of 0 means.
    """

    name: str
    key: str
    positive: str
    negative: str

    @property
    def letters(self) -> tuple[str, str]:
        first, second = self.name.split("/")
        return first, second


DIMENSIONS: tuple[Dimension, ...] = (
    Dimension("E/I", "ei", "E", "I"),
    Dimension("S/N", "sn", "N", "S"),
    Dimension("T/F", "tf", "T", "F"),
    Dimension("J/P", "jp", "J", "P"),
)
POSITIVE_POLES: tuple[str, ...] = tuple(d.positive for d in DIMENSIONS)
TYPES: tuple[str, ...] = tuple("".join(t) for t in product(*(d.letters for d in DIMENSIONS)))

Labels = tuple[int, int, int, int]


def labels_of(mbti_type: str) -> Labels:
    """The four 0/1 labels of a type, in the order E, N, T, J; case and outer spaces are ignored.

    DataError, which says what letter is wrong, where the text is not one of the sixteen types.
    """
    letters = mbti_type.strip().upper()
    if len(letters) != len(DIMENSIONS):
        count = counted(len(letters), "letter")
        raise DataError(f'type "{mbti_type}" has {count}; allowed: 4, such as INTJ')
    for place, (letter, dimension) in enumerate(zip(letters, DIMENSIONS, strict=True), start=1):
        if letter not in dimension.letters:
            first, second = dimension.letters
            raise DataError(
                f'type "{mbti_type}" has no letter of {dimension.name} in place {place}; '
                f"allowed: {first}, {second}"
            )
    e, n, t, j = (int(c == d.positive) for c, d in zip(letters, DIMENSIONS, strict=True))
    return e, n, t, j


def type_of(labels: Sequence[int | bool]) -> str:
    """The type that four 0/1 labels in the order E, N, T, J mean."""
    return "".join(
        d.positive if label else d.negative for label, d in zip(labels, DIMENSIONS, strict=True)
    )
