"""The figures of an audit as text, for the screen and for the page.

Takes them as `Audit.as_dict` gives them, and imports nothing heavy. Must not know how they are
laid out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports.wording import percent

Figures = Mapping[str, Any]


class Section(NamedTuple):
    """A heading, and rows that each begin with a name; `header` names the other columns."""

    heading: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def audit_sections(found: Figures, config: RunConfig) -> Iterator[Section]:
    """All figures of an audit of `config`, in the order in which they are read."""
    users = found["users"]
    content = [
        ("users (rows that can be used)", f"{users:,}"),
        ("posts", f"{found['posts']:,}"),
        ("authors", f"{found['authors']:,}" if found["authors"] else "not named"),
        ("bad rows", f"{found['rows'] - users:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in found["bad_rows"].items()),
    ]
    yield Section("content", ("",), [*content])
    shares = (
        ("always giving the commonest type is right for", "majority"),
        ("name any type in a post", "names_a_type"),
        ("name their own type in a post", "names_own_type"),
        ("giving the type they mention most is right for", "most_mentioned_rule"),
        ("the same after masking (leaks unless as the first)", "most_mentioned_rule_masked"),
    )
    rows = [(name, percent(found[key])) for name, key in shares]
    yield Section("how far texts give their label away", ("of users",), [*rows])
    poles = zip(found["pole_shares"].items(), found["pos_weight"], strict=True)
    yield Section(
        "poles",
        ("of users", f"pos_weight (by {config.data.unit})"),
        [(p, percent(s), "-" if w is None else f"{w:.3f}") for (p, s), w in poles],
    )
    types = [(t, f"{s * users:,.0f}", percent(s)) for t, s in found["type_shares"].items()]
    yield Section("types", ("users", "share"), [*types])
    yield _lengths(found, config.model.max_tokens)
    yield _repeats(found, config)


def _lengths(found: Figures, max_tokens: int) -> Section:
    rows = [
        (
            f"of a {unit}",
            *(f"{lengths[rank]:,}" for rank in ("min", "median", "p90", "p99", "max")),
            percent(lengths["longer"]),
        )
        for unit, lengths in found["tokens"].items()
    ]
    header = ("least", "median", "90 %", "99 %", "most", f"more than a window of {max_tokens}")
    return Section("tokens", header, [*rows])


def _repeats(found: Figures, config: RunConfig) -> Section:
    repeats = found["repeats"]
    rows = [
        ("texts that occur more than once", f"{repeats['texts']:,}"),
        ("posts with such a text", f"{repeats['posts']:,}"),
    ]
    if found["splits"] is None:
        rows.append(("across the split", f"no split: {found['split_problem']}"))
    else:
        sizes = ", ".join(f"{name} {n:,}" for name, n in found["splits"].items())
        rows += [
            (f"split ({config.data.unit}s)", sizes),
            ("posts in val and test", f"{repeats['held_out']:,}"),
            ("  also in train, as written", f"{repeats['across']:,}"),
            ("  also in train, by letters and digits", f"{repeats['near_across']:,}"),
        ]
    return Section("repeats", ("",), [*rows])
