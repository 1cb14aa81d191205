"""Masking: what is hidden, what is left alone, that nothing slips by, that it costs one pass."""

import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.mask import (
    _NAMES,
    _URL,
    _addresses,
    _names,
    find_masked_spans,
    mask_text,
    most_mentioned,
    type_mentions,
)
from mbti_ray.data.text import preprocess_text
from mbti_ray.data.tokenizer import build_tokenizer
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit

ALSO = ("functions", "temperaments", "axes")

# Pieces that touch each other in every way that the masks can be confused by.
TYPE_PIECES = (
    "INTJ", "entp", "NTJ", "tj", "Esfp", "IntJ", "s", "a", "E", "x", "X", "é", "Í", "我", "Ｊ", "4",
    "\u200d", "\u0301", "\u00ad", "type", "#", "'s", "I.N.T.J", "Ni", "Te", "-", "NT", "introvert",
)  # fmt: skip
LINK_PIECES = ("http://", "www.", "t.co/", "x.com", "://", "link", ".", "/", "-", "_", "|||", ")")
TEXTS = (
    st.lists(st.sampled_from((*TYPE_PIECES, *LINK_PIECES, " ", ",")), max_size=12).map("".join)
    | st.text()
)


# A letter as a tokenizer may still read it: plain, accented, full-width, with something invisible.
DISGUISES = st.sampled_from(
    ("{}", "{}", "{}\u0301", "{}\u200d", "{}\u00ad", "{}\ue000", "\u0308{}")
)


@st.composite
def disguised(draw):
    """One of the sixteen types, each letter in either case and in some disguise."""
    letters = (draw(st.sampled_from((c, c.lower()))) for c in draw(st.sampled_from(TYPES)))
    wide = draw(st.booleans())
    shown = (chr(ord(c) + 0xFEE0) if wide else c for c in letters)
    return "".join(draw(DISGUISES).format(c) for c in shown)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer("tiny", [post for row in builtin_rows(users=50) for post in row.posts])


@contextmanager
def cpu_limit_s(seconds: float) -> Iterator[None]:
    """Fail once this process has computed for so long, whatever else the machine does."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError(f"more than {seconds} s of CPU")

    before = signal.signal(signal.SIGVTALRM, fail)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("mbti_type", TYPES)
def test_every_type_is_hidden_in_every_case_plural_and_suffix(mbti_type):
    for word, form in product(
        (
            mbti_type,
            mbti_type.lower(),
            mbti_type.capitalize(),
            mbti_type[:3] + mbti_type[3].lower(),
        ),
        ("{}", "{}s", "{}'s", "{}-ish", "#{}", "({})", "{}/infp", "{}_4w5", "{}problems", "team{}"),
    ):
        masked = mask_text(f"so {form.format(word)} here")
        assert not any(t in masked.upper() for t in TYPES), (form, word, masked)
        assert masked.startswith("so ")
        assert masked.endswith(" here")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("I.N.T.J. and E S F P", "type. and type"),
        ("some INxP, xNFJ or IxTx", "some type, type or type"),
        ("proudinfjwoman MyIntjLife myINTJproblems", "type type type"),
        ("我是INTJ人 и INFPами", "我是type人 и typeами"),
        ("ÍNTJ ｉｎｔｊ IN\u00adTJ e\u0301ntp 𝐈𝐍𝐓𝐉", "type type type type type"),
        ("iNtP", "type"),
    ],
)
def test_a_type_is_hidden_however_it_is_written(text, masked):
    assert mask_text(text) == masked


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
        "@IntJewCon and @AgentJ, GiantPanda, PointPerson",
        "and/or, e.g. this.then that. ASP.net wins 3.5/4 at 10.30/11.00",
        "write to bob@example.com or @someone #hashtag",
        "ok.then/now he said: no.Really",
        "Björk — “quoted” 👩‍👩‍👧 我喜欢",
        "xxxx XXXX exes i s t",
        "Ni and Te and NT and introverts are hidden only when asked for",
        "",
    ],
)
def test_a_text_without_types_or_addresses_is_left_as_it_is(text):
    assert preprocess_text(text, mask=True) == text


@pytest.mark.parametrize(
    ("also", "text", "masked"),
    [
        ("functions", "Ni-Te, TiNe or Se/Fi", "type, type or type"),
        ("functions", "Ni dom, Fe user", "type dom, type user"),
        ("functions", "Teen Fiesta, Se and Ti", "Teen Fiesta, Se and Ti"),
        ("temperaments", "NTs are no SJ, NFs", "type are no type, type"),
        ("temperaments", "nt, nf and SPORT stay", "nt, nf and SPORT stay"),
        ("axes", "Introverts, EXTRAVERTED sensors, feeler", "type, type type, type"),
        ("axes", "sensory feelings, thinking, judge", "sensory feelings, thinking, judge"),
    ],
)  # fmt: skip
def test_other_kinds_are_masked_on_request_only(also, text, masked):
    assert mask_text(text) == text
    assert mask_text(text, (also,)) == masked


@example(text="INTJét.co/", also=())
@example(text="I_N_T_J.co/x and a.com://INTJ", also=())
@given(text=TEXTS, also=st.sets(st.sampled_from(ALSO)).map(tuple))
def test_masking_what_is_masked_changes_nothing(text, also):
    masked = mask_text(text, also)
    assert mask_text(masked, also) == masked


@given(text=TEXTS, also=st.sets(st.sampled_from(ALSO)).map(tuple))
def test_masking_never_more_than_doubles_a_text(text, also):
    assert len(mask_text(text, also)) <= 2 * len(text)


# Without n and s no type can be written, and without a dot, a colon or a slash no address.
@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="nNsSxX./:")))
def test_a_text_that_cannot_name_a_type_is_unchanged(text):
    assert mask_text(text) == text


@given(TEXTS | st.text("IiENTjPx ._-·", max_size=12))
@settings(max_examples=500)
def test_no_text_that_names_a_type_is_skipped(text):
    assert [m.span() for m in _names(text)] == [m.span() for m in _NAMES.finditer(text)]


PARTS = ["www.", "WWW.", " ", "  ", "://", "http", ".com", ".ORG", ".co/", "t", "/", "|", "@", "-"]


@given(
    st.lists(st.sampled_from([*PARTS, "x.y", ".gov/", "\u017f", "\u212a", "9", ")"])).map("".join)
)
@settings(max_examples=500)
def test_no_address_is_skipped(text):
    # A dot before a letter, or a scheme, is what makes a text one that is looked at.
    searched = "://" in text or re.search(r"\.[A-Za-z]", text) is not None
    expected = [m.span() for m in _URL.finditer(text)] if searched else []
    assert [m.span() for m in _addresses(text)] == expected


@example(text="so I_N_T_J.co/x, a.com://INTJ/y and I.N.T.J", also=())
@given(text=TEXTS, also=st.sets(st.sampled_from(ALSO)).map(tuple))
def test_the_offsets_are_those_of_what_was_replaced(text, also):
    hidden = find_masked_spans(text, also)
    assert all(a.end <= b.start for a, b in pairwise(hidden))
    assert all(0 <= h.start < h.end <= len(text) for h in hidden)
    ends = [0, *(h.end for h in hidden)]
    starts = [*(h.start for h in hidden), len(text)]
    kept = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    words = ["link" if h.kind == "link" else "type" for h in hidden]
    rebuilt = "".join(k + w for k, w in zip(kept, [*words, ""], strict=True))
    assert rebuilt == mask_text(text, also)


@given(
    TEXTS | st.lists(disguised() | st.sampled_from((" ", "s", "-", "😀")), max_size=4).map("".join)
)
@settings(max_examples=300)
def test_no_type_word_reaches_the_tokenizer(tokenizer, text):
    """The canary: read as in training and serving, then as the tokenizer itself splits words."""
    backend = tokenizer.backend_tokenizer
    normal = backend.normalizer.normalize_str(preprocess_text(text, mask=True))
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
    assert not [w for w in words if re.fullmatch("[ie][ns][tf][jp]s?", w)]


@pytest.mark.parametrize(
    "piece",
    [
        "a", "a.", "a-", "http://", "http:/", "http://.", "www.", "xINTJX", "t.co/.", "intj",
        "i.n.t.", "x", "Ni", "Ni-", "é", "intj é ", "IntJ",
    ],
)  # fmt: skip
def test_masking_is_linear_in_the_length_of_the_text(piece):
    text = piece * (200_000 // len(piece))
    with cpu_limit_s(20):  # A linear pattern needs some tenths, a quadratic one minutes.
        masked = mask_text(text, ALSO)
    assert mask_text(masked, ALSO) == masked


def test_mentions_name_the_type_that_makes_the_word_one():
    text = "teamINTJ, intjs and an E.N.F.P at t.co/isfj, INxP"
    assert type_mentions(text) == ["INTJ", "INTJ", "ENFP", "ISFJ"]


def test_the_most_mentioned_type_is_the_first_of_those_mentioned_equally_often():
    assert most_mentioned(Counter(type_mentions("an ISFP, no INTJ, INTJ? ISFP"))) == "ISFP"
    assert most_mentioned(Counter()) is None
