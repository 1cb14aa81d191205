"""An audit as tables, which the terminal shows too, and as a page. Must not know how it is made."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports.charts import Bar, bars
from mbti_ray.reports.html import page, paragraph, section, table
from mbti_ray.reports.wording import percent

# `Audit.as_dict`.
Statistics = Mapping[str, Any]


class AuditTable(NamedTuple):
    """A heading, and rows that each start with a name; `header` names the other columns."""

    heading: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def audit_tables(found: Statistics, config: RunConfig) -> Iterator[AuditTable]:
    """All tables of an audit under `config`, in reading order."""
    users = found["users"]
    content = [
        ("users (rows that can be used)", f"{users:,}"),
        ("posts", f"{found['posts']:,}"),
        ("authors", f"{found['authors']:,}" if found["authors"] else "not named"),
        ("bad rows", f"{found['rows'] - users:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in found["bad_rows"].items()),
    ]
    yield AuditTable("content", ("",), [*content])
    shares = (
        ("always predicting the majority type is right for", "majority"),
        ("name any type in a post", "names_a_type"),
        ("name their own type in a post", "names_own_type"),
        ("predicting the type they mention most is right for", "most_mentioned_rule"),
        ("the same after masking (leaks unless equal to the first)", "most_mentioned_rule_masked"),
    )
    rows = [(name, percent(found[key])) for name, key in shares]
    yield AuditTable("how far texts leak their label", ("of users",), [*rows])
    poles = zip(found["pole_shares"].items(), found["pos_weight"], strict=True)
    yield AuditTable(
        "poles",
        ("of users", f"pos_weight (by {config.data.unit})"),
        [(p, percent(s), "-" if w is None else f"{w:.3f}") for (p, s), w in poles],
    )
    types = [(t, f"{s * users:,.0f}", percent(s)) for t, s in found["type_shares"].items()]
    yield AuditTable("types", ("users", "share"), [*types])
    yield _lengths(found, config.model.max_tokens)
    yield _duplicates(found, config)


def _lengths(found: Statistics, max_tokens: int) -> AuditTable:
    rows = [
        (
            f"of a {unit}",
            *(f"{lengths[rank]:,}" for rank in ("min", "median", "p90", "p99", "max")),
            percent(lengths["longer"]),
        )
        for unit, lengths in found["tokens"].items()
    ]
    header = ("min", "median", "90 %", "99 %", "max", f"longer than a window of {max_tokens}")
    return AuditTable("tokens", header, [*rows])


def _duplicates(found: Statistics, config: RunConfig) -> AuditTable:
    repeats = found["repeats"]
    rows = [
        ("texts that occur more than once", f"{repeats['texts']:,}"),
        ("posts with such a text", f"{repeats['posts']:,}"),
    ]
    if found["splits"] is None:
        rows.append(("across splits", f"no split: {found['split_problem']}"))
    else:
        sizes = ", ".join(f"{name} {n:,}" for name, n in found["splits"].items())
        rows += [
            (f"split ({config.data.unit}s)", sizes),
            ("posts in val and test", f"{repeats['held_out']:,}"),
            ("  also in train, as written", f"{repeats['across']:,}"),
            ("  also in train, by letters and digits", f"{repeats['near_across']:,}"),
        ]
    return AuditTable("duplicates", ("",), [*rows])


def audit_page(found: Statistics, tables: Iterable[AuditTable]) -> str:
    """The page of an audit: its `audit_tables`, with charts of types and lengths."""
    shares = [(t, s, percent(s)) for t, s in found["type_shares"].items()]
    charts = {
        "types": [bars("share of users", shares)],
        "tokens": [
            bars(f"{unit}s by number of tokens", [_bar(b) for b in lengths["histogram"]])
            for unit, lengths in found["tokens"].items()
        ],
    }
    parts = [
        section(t.heading, table(t.header, t.rows), *charts.get(t.heading, ())) for t in tables
    ]
    return page(found["source"], [paragraph(f"fingerprint {found['fingerprint']}"), *parts])


def _bar(lengths: Statistics) -> Bar:
    first, last, count = (lengths[key] for key in ("first", "last", "count"))
    return f"{first:,}" + f" to {last:,}" * (last > first), count, f"{count:,}"
