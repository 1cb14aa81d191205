"""Cleaning and masking: what is hidden, what is left alone, and that it costs one pass."""

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbti_ray.data.text import clean_text, mask_text, read_text, repair_text
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit

# Pieces that touch each other in every way that the two masks can be confused by.
TYPE_PIECES = (
    "INTJ",
    "entp",
    "NTJ",
    "tj",
    "Esfp",
    "s",
    "a",
    "E",
    "é",
    "我",
    "4",
    "type",
    "#",
    "'s",
)
LINK_PIECES = ("http://", "www.", "t.co/", "x.com", "://", "link", ".", "/", "-", "_", "|||", ")")
PIECES = st.sampled_from((*TYPE_PIECES, *LINK_PIECES, " ", ","))


@pytest.mark.parametrize("mbti_type", TYPES)
def test_every_type_is_hidden_in_every_case_plural_and_suffix(mbti_type):
    for word, form in product(
        (mbti_type, mbti_type.lower(), mbti_type.capitalize()),
        ("{}", "{}s", "{}'s", "{}-ish", "#{}", "({})", "{}/infp", "{}_4w5", "{}problems", "team{}"),
    ):
        masked = mask_text(f"so {form.format(word)} here")
        assert not any(t in masked.upper() for t in TYPES), (form, word, masked)
        assert masked.startswith("so ")
        assert masked.endswith(" here")


@pytest.mark.parametrize(
    "url",
    [
        "https://personalitycafe.com/intj-forum/1.html?a=b#c",
        "HTTP://X.ORG",
        "www.youtube.com/watch?v=1",
        "t.co/AbC123",
        "youtu.be/x",
        "pic.twitter.com/y8",
        "16personalities.com",
    ],
)
def test_an_address_is_hidden_and_the_punctuation_after_it_is_kept(url):
    assert mask_text(f"see {url}, ok ({url})") == "see link, ok (link)"


@pytest.mark.parametrize(
    "text",
    [
        "the print job and my guestpost, WESTPORT bestpractice printjob PRINTJOB",
        "and/or, e.g. this.then that. ASP.net wins 3.5/4 at 10.30/11.00",
        "write to bob@example.com or @someone #hashtag",
        "ok.then/now he said: no.Really",
        "Björk — “quoted” 👩‍👩‍👧 我喜欢",
        "",
    ],
)
def test_a_text_without_types_or_addresses_is_left_as_it_is(text):
    assert read_text(text, mask=True) == text


def test_a_type_beside_letters_of_another_script_is_hidden():
    assert mask_text("我是INTJ人 и INFPами") == "我是type人 и typeами"


def test_masking_is_left_out_when_not_asked_for():
    assert read_text("an INTJ\n at  t.co/x", mask=False) == "an INTJ at t.co/x"


@given(st.lists(PIECES, max_size=12).map("".join) | st.text())
def test_masking_what_is_masked_changes_nothing(text):
    masked = mask_text(text)
    assert mask_text(masked) == masked


@given(st.text())
def test_clean_text_has_no_outer_or_double_spaces_and_can_be_encoded(text):
    cleaned = clean_text(text)
    assert cleaned == " ".join(cleaned.split())
    cleaned.encode()


def test_mojibake_is_repaired_and_clean_text_is_not_touched():
    assert repair_text("itâ€™s BjÃ¶rk") == "it’s Björk"
    clean = "it’s Björk, naïve café, São Paulo — 5 € 🖤"
    assert repair_text(clean) == clean


def test_bytes_that_are_not_utf8_are_read_as_windows_1252():
    text = b"caf\xe9\x92s \xff ok \xc3\xbc".decode(errors="surrogateescape")
    assert repair_text(text) == "café’s ÿ ok ü"
    assert repair_text("half of an emoji \ud83d") == "half of an emoji \N{REPLACEMENT CHARACTER}"


def test_control_characters_and_line_breaks_become_one_space():
    assert clean_text(" a\x00\r\n\tb\u200b\u2028c\x1f d ") == "a b c d"
    assert clean_text("e\u0301") == "é"


@pytest.mark.parametrize(
    "piece", ["a", "a.", "a-", "http://", "http:/", "http://.", "www.", "xINTJX", "t.co/.", "intj"]
)
def test_masking_is_linear_in_the_length_of_the_text(piece):
    started = time.perf_counter()
    mask_text(piece * (200_000 // len(piece)))
    # About 0.05 s; a quadratic pattern needs minutes.
    assert time.perf_counter() - started < 2
