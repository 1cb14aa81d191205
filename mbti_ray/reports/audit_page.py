"""An audit as conclusions and tables, which the terminal shows too, and as a page.

Must not know how an audit is made.
"""

import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mbti_ray import __version__
from mbti_ray.config.schema import RunConfig
from mbti_ray.reports.charts import Bar, Record, bars, shares
from mbti_ray.reports.html import render_page
from mbti_ray.reports.wording import percent


class AuditTable(NamedTuple):
    """A heading, and rows that each start with a name; `header` names the other columns."""

    heading: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def audit_tables(found: Record, config: RunConfig) -> Iterator[AuditTable]:
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


def _lengths(found: Record, max_tokens: int) -> AuditTable:
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


def _duplicates(found: Record, config: RunConfig) -> AuditTable:
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


def audit_conclusions(found: Record, config: RunConfig) -> Iterator[str]:
    """What the statistics amount to, one sentence each, the most important first."""
    users, majority = found["users"], found["majority"]
    most, share = next(iter(found["type_shares"].items()))
    yield (
        f"{users:,} users can be used; always predicting {most} is right for {percent(share)} of "
        "them, so an accuracy counts only above that of the majority class."
    )
    rule, masked = found["most_mentioned_rule"], found["most_mentioned_rule_masked"]
    leak = f"The type that a user mentions most is right for {percent(rule)}"
    if masked > majority:
        yield f"{leak}, and for {percent(masked)} even after masking: the texts still leak it."
    elif rule > majority:
        off = "" if config.data.mask else " It is off (data.mask=false)."
        yield f"{leak}: the texts leak their label, and masking removes that.{off}"
    else:
        yield f"{leak}, no more than the majority type: mentions do not leak the label."
    pole, rarest = min(found["pole_shares"].items(), key=lambda item: min(item[1], 1 - item[1]))
    yield f"The least balanced letter is {pole}, with {percent(rarest)} of the users."
    repeats, longer = found["repeats"], found["tokens"]["user"]["longer"]
    if found["splits"] is None:
        yield f"The data cannot be split: {found['split_problem']}."
    elif repeats["near_across"]:
        yield (
            f"{repeats['near_across']:,} of {repeats['held_out']:,} posts in val and test are also "
            "in train: scores may be too high."
        )
    else:
        yield "No post in val or test is also in train."
    if longer:
        yield (
            f"{percent(longer)} of the users do not fit into one window of "
            f"{config.model.max_tokens} tokens and are read in several."
        )


def audit_page(found: Record, tables: Iterable[AuditTable], conclusions: Iterable[str]) -> str:
    """The page of an audit: its conclusions and tables, with charts of types and lengths."""
    charts = {"types": [shares("share of users", found["type_shares"])]}
    charts["tokens"] = [
        bars(f"{unit}s by number of tokens", [_bar(b) for b in lengths["histogram"]])
        for unit, lengths in found["tokens"].items()
    ]
    return render_page(
        "audit.html",
        title=found["source"],
        kind="audit",
        conclusions=conclusions,
        caveats=(),
        tiles=(),
        facts=[("fingerprint", found["fingerprint"]), ("version", f"mbti_ray {__version__}")],
        links=(),
        commands=[f"mbti-ray train data.source={shlex.quote(found['source'])}"],
        tables=tables,
        charts=charts,
    )


def _bar(lengths: Record) -> Bar:
    first, last, count = (lengths[key] for key in ("first", "last", "count"))
    return f"{first:,}" + f" to {last:,}" * (last > first), count, f"{count:,}"
