"""Masking: words that name a type, URLs, and what else is requested are replaced by neutral words.

People name their own type in their posts, so a model that reads it has nothing to learn. Raise
`MASK_VERSION`, a part of every bundle, with any change of what `mask_text` returns. Must not know
of labels, files or tokens.

The replacements are words of every English WordPiece vocabulary: "as an INTJ, see https://t.co/x"
becomes "as an type, see link". Tokenizers strip accents and invisible characters, so the patterns
are matched against the text as a tokenizer sees it: "ÍNTJ", "IN<zero-width joiner>TJ" and
full-width letters are types, too.
"""

import re
import unicodedata
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mbti_ray.typology import TYPES

MASK_VERSION: int = 3
TYPE_WORD = "type"
LINK_WORD = "link"

_LINK = "link"
_TYPE = "type"

_FIRST, _LAST = "(?<![A-Za-z])", "(?![A-Za-z])"
_ANY_CASE = "[IiEe][NnSs][TtFf][JjPp]"
# As people write a type: INTJ, intj, Intj, and INTj (socionics). Inside joined words only these
# count, because "IntJ" there is the seam of two words: IntJewCon, AgentJ.
_WRITTEN = "(?:[IE][NS][TF][JP]|[ie][ns][tf][jp]|[IE][ns][tf][jp]|[IE][NS][TF][jp])"
# Every alternative hangs on the start of a run of letters and takes it whole, so a text is read
# once. English words hold "intj", "estp" and their like (printjob, guestpost): in the middle of a
# run they count only as capitals among others. No English word holds one of the F types.
_NAMES = re.compile(
    rf"{_FIRST}(?:"
    rf"(?P<alone>{_ANY_CASE})[sS]?{_LAST}"
    rf"|(?P<first>{_WRITTEN})[A-Za-z]+"
    rf"|(?P<unsure>(?![Xx]{{4}})[IiEeXx][NnSsXx][TtFfXx][JjPpXx])[sS]?{_LAST}"
    rf"|(?P<spaced>[IiEe](?P<gap>[ ._·-]|\. )[NnSs](?P=gap)[TtFf](?P=gap)[JjPp]){_LAST}"
    rf"|(?=[A-Za-z]+?{_ANY_CASE})[A-Za-z]+?(?:(?P<last>{_WRITTEN})[sS]?{_LAST}"
    r"|(?P<inside>(?<![A-Z])[IE][NS][TF][JP](?![A-Z])|(?<=[a-z])[IE][ns][tf][jp](?=[A-Z])"
    r"|[ie][ns]f[jp]|[IE][NS]F[JP])[A-Za-z]*))"
)
# Most texts hold none, and this finds that out ten times faster: a name's letters stand for 1 to 4,
# and what may be between them is dropped. An unknown letter may be any of the four.
_LETTERS = bytes.maketrans(b"IiEeNnSsTtFfJjPpXx", b"1111222233334444xx")
_GAPS = b" ._-"
_MAY_NAME = re.compile(b"[1x][2x][3x][4x]")
_GROUPS = tuple(_NAMES.groupindex.keys() - {"gap"})

_FUNCTION = "[NSTF][ei]"
_ALSO = {
    # Jung's functions, as pairs ("Ni-Te", "TiNe") or named by their place ("Ni dom").
    "functions": re.compile(
        rf"{_FIRST}(?:{_FUNCTION}(?:\s?[-/>+]?\s?{_FUNCTION}){{1,7}}(?:[sS]?{_LAST})"
        rf"|{_FUNCTION}(?=[ -](?i:dom|aux|tert|inf|user|grip|loop|function)[a-z]*))"
    ),
    # Keirsey's temperaments, and the same letters of the other axes.
    "temperaments": re.compile(rf"{_FIRST}(?:NT|NF|SJ|SP|ST|SF|NJ|NP)(?:s|er|ers)?{_LAST}"),
    "axes": re.compile(
        rf"{_FIRST}(?i:(?:introver|extr[ao]ver|ambiver)(?:t|ts|ted|tedness|sion|sions)"
        rf"|sensors?|intuitives?|intuitors?|thinkers?|feelers?|judge?rs|perceivers?){_LAST}"
    ),
}

_TAIL = r"[^\s|<>\"]*[^\s|<>\".,;:!?)\]'’”]"
# A bare name counts with a path (t.co/x, youtu.be/x) or with an ending that is no word: ASP.net
# and a missing space ("ok.then/now") are no addresses.
_ENDINGS = (
    "com|org|net|edu|gov|info|xyz|io|ai|app|dev|co|ly|be|me|gl|to|it|fi|tt|tv|gg|fm|uk|de|fr|eu|ca"
)
_URL = re.compile(
    rf"(?i:[a-z][a-z0-9+]{{1,9}}://{_TAIL}"
    rf"|(?<![\w.@-])(?:www\.{_TAIL}"
    rf"|(?:[a-z0-9-]+\.)+(?:{_ENDINGS})/(?:{_TAIL})?"
    r"|(?:[a-z0-9-]+\.)+(?:com|org|edu|gov)(?![\w@-])))"
)
_DOT_IN_WORD = re.compile(r"\.[A-Za-z]")
# What every address has.
_ADDRESS_CORE = re.compile(rf"://|(?i:www\.)|\.(?i:(?:{_ENDINGS})/|(?:com|org|edu|gov)(?![\w@-]))")
_NOT_LETTER = re.compile("[^A-Za-z]")


@dataclass(frozen=True)
class MaskedSpan:
    """A masked span of a text: characters `start` to `end` (not included).

    Its kind is type, link, functions, temperaments or axes.
    """

    start: int
    end: int
    kind: str


def find_masked_spans(text: str, also: Sequence[str] = ()) -> list[MaskedSpan]:
    """The spans that `mask_text` replaces, in order, not overlapping."""
    folded, places = _folded(text)
    found = [MaskedSpan(places(m.start()), places(m.end()), _LINK) for m in _addresses(folded)]
    if found:
        folded, places = _folded(_masked(text, found, by=_blank))
    for kind in (_TYPE, *also):
        matches = _names(folded) if kind == _TYPE else [*_ALSO[kind].finditer(folded)]
        if matches:
            new = [MaskedSpan(places(m.start()), places(m.end()), kind) for m in matches]
            found = sorted([*found, *new], key=lambda h: h.start)
            # What is masked already must not match another kind.
            folded, places = _folded(_masked(text, found, by=_blank))
    return _with_new_links(text, found)


def mask_text(text: str, also: Sequence[str] = ()) -> str:
    """The text with URLs and words that name one of the sixteen types replaced.

    Types count in any case, with a plural or suffix, letter by letter ("I.N.T.J."), with unknown
    letters ("INxP"), and joined to other words where that cannot be an English word. Idempotent;
    the text grows at most to twice its length. Linear in the length. `also` names which of
    functions, temperaments and axes to mask, too.
    """
    return _masked(text, find_masked_spans(text, also), by=_word)


def type_mentions(text: str) -> list[str]:
    """The types, in capitals and in order, of the words that `mask_text` masks as types.

    A word counts once, for the type that makes it one: "teamINTJ" and "intjs" for INTJ. Matched
    as written: a type in a URL counts, too; one with unknown letters does not.
    """
    found: list[str] = []
    folded, _ = _folded(text)
    for match in _names(folded):
        named = next(match[group] for group in _GROUPS if match[group])
        named = _NOT_LETTER.sub("", named).upper()
        if named in TYPES:
            found.append(named)
    return found


def most_mentioned(mentions: Counter[str]) -> str | None:
    """The type mentioned most often, the first of equally frequent ones; None without any."""
    # max() returns the first of several, and a Counter keeps the order of first mention.
    return max(mentions, key=mentions.__getitem__, default=None)


def _addresses(text: str) -> Iterator[re.Match[str]]:
    if "://" not in text and not ("." in text and _DOT_IN_WORD.search(text)):
        return
    end = 0
    for core in _ADDRESS_CORE.finditer(text):
        if core.start() >= end:
            # No address reaches over a space.
            start, end = text.rfind(" ", end, core.start()) + 1, text.find(" ", core.end())
            end = end if end >= 0 else len(text)
            yield from _URL.finditer(text, start, end)


# Mentions are counted in the text that has just been masked.
@lru_cache(maxsize=2)
def _names(folded: str) -> list[re.Match[str]]:
    # Without other characters than ASCII, such as the gap "·", which may be between letters.
    letters = folded.encode("ascii", "ignore").translate(_LETTERS, _GAPS)
    may_name = b"1234" in letters or (b"x" in letters and _MAY_NAME.search(letters))
    return [*_NAMES.finditer(folded)] if may_name else []


def _with_new_links(text: str, hidden: list[MaskedSpan]) -> list[MaskedSpan]:
    """With the URLs that the replacements form with the text around them.

    "I_N_T_J.co/x" contains none, but "type.co/x" is one; it is masked as a whole.
    """
    while hidden:
        folded, places = _folded(_masked(text, hidden, by=_word))
        found = [(places(m.start()), places(m.end())) for m in _addresses(folded)]
        if not found:
            break
        origins = _origins(text, hidden)
        links = [MaskedSpan(origins[a].start, origins[b - 1].stop, _LINK) for a, b in found]
        starts = [link.start for link in links]
        # The last link that starts before a span either contains it or ends before it.
        before = ((h, bisect(starts, h.start)) for h in hidden)
        apart = [h for h, count in before if not count or links[count - 1].end <= h.start]
        hidden = sorted([*apart, *links], key=lambda h: h.start)
    return hidden


def _origins(text: str, hidden: Sequence[MaskedSpan]) -> list[range]:
    """For each character of the masked text, the characters of the text that it replaces."""
    origins: list[range] = []
    end = 0
    for h in hidden:
        origins += [range(i, i + 1) for i in range(end, h.start)]
        origins += [range(h.start, h.end)] * len(_word(h))
        end = h.end
    return origins + [range(i, i + 1) for i in range(end, len(text))]


def _word(hidden: MaskedSpan) -> str:
    return LINK_WORD if hidden.kind == _LINK else TYPE_WORD


def _masked(text: str, hidden: Sequence[MaskedSpan], *, by: Callable[[MaskedSpan], str]) -> str:
    """The text with what is hidden replaced."""
    if not hidden:
        return text
    pieces, end = [], 0
    for h in hidden:
        pieces += [text[end : h.start], by(h)]
        end = h.end
    return "".join(pieces) + text[end:]


def _blank(hidden: MaskedSpan) -> str:
    """Slashes match no pattern of a word."""
    return "/" * (hidden.end - hidden.start)


class _Fold(dict[int, int | None]):
    """Each character as a tokenizer sees it, filled on first use; None: it is dropped."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        category = unicodedata.category(character)
        base = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
        if character.isspace():
            self[code] = code
        elif category[0] == "C" or category == "Mn":
            self[code] = None
        else:
            self[code] = ord(base[0]) if len(base) == 1 else code
        return self[code]


_FOLD = _Fold()


# ASCII that is visible or white space is left as it is.
_FOLDABLE = re.compile("[^\t-\r\x1c-~]+")


@lru_cache(maxsize=1)
def _kept(text: str) -> list[int]:
    """The index of each character that folding keeps, and of the end."""
    return [i for i, c in enumerate(text) if _FOLD[ord(c)] is not None] + [len(text)]


def _folded(text: str) -> tuple[str, Callable[[int], int]]:
    """The text as a tokenizer sees it, and a map of its indices to those of the text."""
    if text.isascii():
        return text, int
    folded = _FOLDABLE.sub(lambda run: run.group().translate(_FOLD), text)
    # Most texts have nothing to mask, and are not asked for.
    return folded, int if len(folded) == len(text) else lambda place: _kept(text)[place]
