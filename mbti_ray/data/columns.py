"""Which columns of a source are read, and as what: the one rule for all formats.

A column is recognized by its name, in any case and with outer spaces, or named in `data.columns`.
Two that could be meant are refused. Must not know of formats, or of what the cells mean.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.text import repaired_line
from mbti_ray.errors import DataError, nearest
from mbti_ray.typology import POSITIVE_POLES

SEPARATORS = (",", ";", "\t", "|")
_SHOWN_NAMES = 30
_NAMES = {
    "text": ("posts", "text"),
    **{role: (role,) for role in ("type", "author", "id")},
    **{pole: (pole.lower(),) for pole in POSITIVE_POLES},
}
# What people call these columns elsewhere: offered, never taken without being asked for.
_LOOKALIKES = {
    "text": "body|comment|comments|content|message|post|sentence|selftext|tweet|tweets|words",
    "type": "class|label|labels|mbti|mbti_type|personality|personality_type|target",
    "author": "author_id|handle|screen_name|user|user_id|user_name|userid|username",
    "id": "comment_id|post_id|row_id|tweet_id|uuid",
}


class ColumnMap:
    """The columns of one source, which are added as they are met.

    Attributes:
        notes: What a user should know of how the source is read.
        roles: What a column is read as, by its name: text, type, author, id, E, N, T or J.
    """

    def __init__(self, source: str, options: DataConfig) -> None:
        self.source = source
        self.separator = options.separator
        self.notes: list[str] = []
        self._given = {role: name for role, name in options.columns if name is not None}
        self._names: dict[str, None] = {}
        self.roles: dict[str, str] = {}

    def add(self, names: Sequence[str]) -> None:
        """Take a header or record into account; a DataError if two columns could be meant."""
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice and self._matching(twice):
            raise DataError(f"{self.source}: column {quoted(twice[:1])} occurs twice; rename one")
        self._names |= dict.fromkeys(names)
        found = {role: self._find(role, self._names) for role in _NAMES}
        if not all(found[pole] for pole in POSITIVE_POLES):
            found |= {pole: [] for pole in POSITIVE_POLES}
        for role, matches in found.items():
            if len(matches) > 1:
                options = " or ".join(f"data.columns.{role}={name}" for name in matches)
                allowed = "rename one" if role in POSITIVE_POLES else options
                raise DataError(
                    f"{self.source}: columns {quoted(matches)} could both be the {role}; "
                    f"allowed: {allowed}"
                )
        self.roles = {matches[0]: role for role, matches in found.items() if matches}

    def cells(self, record: Mapping[str, object]) -> dict[str, object]:
        """The cells of a record by role."""
        if not record.keys() <= self._names.keys():
            self.add([*record])
        return {role: record[name] for name, role in self.roles.items() if name in record}

    def count_known(self, names: Collection[str]) -> int:
        """How many of some names this or any other source might have."""
        return len(self._matching(names)) + sum(
            _looks_like(role, name) for role in _LOOKALIKES for name in names
        )

    def check(self, *, labeled: bool) -> None:
        """Raise a DataError unless there are texts, types if ``labeled``, and those given."""
        roles = {*self.roles.values()}
        if roles >= {*POSITIVE_POLES}:
            labeled = False
        needed = ["text", *(["type"] if labeled else []), *self._given]
        if self._names and (missing := [role for role in needed if role not in roles]):
            raise DataError(self._missing(missing[0]))

    def unused_note(self) -> list[str]:
        """A line about the columns that are not read, if there are any."""
        unused = [name for name in self._names if name not in self.roles]
        if not unused:
            return []
        return [f"columns not used: {quoted(unused)}{self._hints()}"]

    def _missing(self, role: str) -> str:
        given = self._given.get(role)
        wanted = " or ".join(f'"{name}"' for name in _NAMES[role])
        if given:
            wanted = f'"{given}", which data.columns.{role} names'
        hint = self._hints()
        marks = [mark for mark in SEPARATORS if mark in "".join(self._names)]
        if len(self._names) == 1 and marks:
            hint = f"; to divide it at {marks[0]!r}, set data.separator={marks[0]!r}"
        return (
            f"{self.source}: no column {wanted}; needed: type (or E, N, T and J), and posts or "
            f"text; found: {quoted(self._names)}"
            f"{hint or nearest(given or _NAMES[role][0], self._names)}"
        )

    def _hints(self) -> str:
        """What the columns that are not read look like."""
        alike = {
            role: name
            for role in _LOOKALIKES
            for name in reversed(self._names)
            if role not in self.roles.values() and _looks_like(role, name)
        }
        return "".join(
            f'; "{name}" looks like the {role}: data.columns.{role}={name}'
            for role, name in alike.items()
        )

    def _find(self, role: str, names: Collection[str]) -> list[str]:
        """The columns that could have a role."""
        given = self._given.get(role)
        if given is not None:
            exact = [name for name in names if name == given]
            return exact or [name for name in names if _plain(name) == _plain(given)]
        others = {_plain(name) for name in self._given.values()}
        return [n for n in names if _plain(n) in _NAMES[role] and _plain(n) not in others]

    def _matching(self, names: Collection[str]) -> list[str]:
        return [name for role in _NAMES for name in self._find(role, names)]


def quoted(names: Collection[str]) -> str:
    """Names from data as a message shows them."""
    shown = [f'"{repaired_line(name, limit=40)}"' for name in islice(names, _SHOWN_NAMES)]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _looks_like(role: str, name: str) -> bool:
    return _plain(name) in _LOOKALIKES[role].split("|")


def _plain(name: str) -> str:
    return name.strip().lower()
