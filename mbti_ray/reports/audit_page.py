"""The page of an audit: its figures as tables, types and lengths as pictures besides."""

from collections.abc import Iterable

from mbti_ray.reports.audit_sections import Figures, Section
from mbti_ray.reports.charts import Bar, bars
from mbti_ray.reports.html import page, paragraph, section, table
from mbti_ray.reports.wording import percent


def audit_page(found: Figures, sections: Iterable[Section]) -> str:
    """The page of an audit as `Audit.as_dict` gives it, and the sections that were made of it."""
    pictures = {
        "types": [
            bars("share of users", [(t, s, percent(s)) for t, s in found["type_shares"].items()])
        ],
        "tokens": [
            bars(f"{unit}s by number of tokens", [_bar(b) for b in lengths["histogram"]])
            for unit, lengths in found["tokens"].items()
        ],
    }
    parts = [
        section(s.heading, table(s.header, s.rows), *pictures.get(s.heading, ())) for s in sections
    ]
    return page(found["source"], [paragraph(f"fingerprint {found['fingerprint']}"), *parts])


def _bar(lengths: Figures) -> Bar:
    first, last, count = (lengths[key] for key in ("first", "last", "count"))
    return f"{first:,}" + f" to {last:,}" * (last > first), count, f"{count:,}"
