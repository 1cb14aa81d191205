"""Preprocessing: what is repaired, and what is left unchanged."""

import pytest
from ftfy.badness import BADNESS_RE, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.data.text import (
    _SUSPICIOUS,
    clean_text,
    has_content,
    preprocess_text,
    repair_encoding,
)

pytestmark = pytest.mark.unit


def test_masking_is_optional():
    assert preprocess_text("an INTJ\n at  t.co/x", mask=False) == "an INTJ at t.co/x"
    assert preprocess_text("an INTJ\n at  t.co/x", mask=True) == "an type at link"


@given(st.text())
def test_clean_text_has_no_outer_or_double_spaces_and_can_be_encoded(text):
    cleaned = clean_text(text)
    assert cleaned == " ".join(cleaned.split())
    cleaned.encode()


def test_mojibake_is_repaired_and_clean_text_is_unchanged():
    assert repair_encoding("itâ€™s BjÃ¶rk") == "it’s Björk"
    clean = "it’s Björk, naïve café, São Paulo — 5 € 🖤"
    assert repair_encoding(clean) == clean


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("“”‘’–—…•aÂÃâ€™œ ")))
@settings(max_examples=500)
def test_no_bad_text_is_skipped(text):
    assert bool(_SUSPICIOUS.search(text)) >= is_bad(text)


def test_no_character_that_is_skipped_is_named_by_ftfy():
    skipped = {c for c in BADNESS_RE.pattern if not c.isascii() and not _SUSPICIOUS.match(c)}
    assert skipped <= {*"\u2013\u2014\u2015\u2018\u2019\u201a\u201c\u201d\u201e\u2026"}


def test_bytes_that_are_not_utf8_are_read_as_windows_1252():
    text = b"caf\xe9\x92s \xff ok \xc3\xbc".decode(errors="surrogateescape")
    assert repair_encoding(text) == "café’s ÿ ok ü"
    assert (
        repair_encoding("half of an emoji \ud83d") == "half of an emoji \N{REPLACEMENT CHARACTER}"
    )


def test_control_characters_and_line_breaks_become_one_space():
    assert clean_text(" a\x00\r\n\tb\u200b\u2028c\x1f d ") == "a b c d"
    assert clean_text("e\u0301") == "é"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\r\n",
        "\u200b\u200b",
        "\u200d \ufeff\u2060",
        "\u00ad\u00a0\u3000\u2028",
        "\u202a\u202c\u2066\u2069",
        "\u3164\uffa0",
        "\u2800\u2800",
        "\ufe0f",
        "\u0301",
        "\ue000\U000f0000",
        "\U000e0041",
        "\x00\x1b\x7f",
        "\N{LATIN CAPITAL LETTER A WITH CIRCUMFLEX}\u00a0",  # a no-break space as mojibake
        "\u00e2\u20ac\u2039",  # a zero-width space as mojibake
    ],
)
def test_a_text_of_invisible_characters_has_no_content(text):
    assert not has_content(text)


@pytest.mark.parametrize(
    "text", ["a", "\u200b.\u200b", "7", "?", "é", "我", "\u0915\u093f", "🖤", "❤️", "\udce9"]
)
def test_a_text_with_one_visible_character_has_content(text):
    assert has_content(text)


@given(st.text())
def test_whether_a_text_has_content_does_not_change_by_cleaning(text):
    assert has_content(text) == has_content(clean_text(text))
