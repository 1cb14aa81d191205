"""What the model may read of a text: the one path for training, evaluation, prediction, serving.

Repairs encodings, cleans white space, hides type words and URLs. Must not know where a text came
from, what its label is, or how it is cut into tokens. `MASK_VERSION` goes into every bundle, so
raise it with any change of what `mask_text` returns.

The replacements are plain words that every English WordPiece vocabulary has, so that a masked
text needs no new token and reads as a sentence: "as an INTJ, see https://t.co/x" becomes "as an
type, see link". They say that something stood there and nothing of what it was.
"""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

MASK_VERSION: int = 1
TYPE_WORD = "type"
LINK_WORD = "link"

_ANY_TYPE = "[IiEe][NnSs][TtFf][JjPp]"
# No English word starts with a type or ends in one, but "printjob" and "guestpost" hold one: in
# the middle of a word only capitals between other letters count (myINTJproblems). Letters are
# ASCII, so a type next to Chinese or Cyrillic text is a word of its own. All alternatives hang on
# the start of a run of letters: a long run without a type costs one pass.
_TYPE = re.compile(
    rf"(?<![A-Za-z])(?:({_ANY_TYPE})[A-Za-z]*"
    rf"|[A-Za-z]*?(?:({_ANY_TYPE})[sS]?(?![A-Za-z])"
    r"|(?<![A-Z])([IE][NS][TF][JP])(?![A-Z])[A-Za-z]*))"
)
_MAY_HOLD_TYPE = re.compile(_ANY_TYPE)

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
_MAY_HOLD_URL = re.compile(r"://|\.[A-Za-z]")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Zero-width space, word joiner and BOM too, but not the joiner that holds emoji together.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]+")


def repair_text(text: str) -> str:
    """Text with bytes of another encoding and mojibake repaired; clean text comes back as it is.

    Bytes that were not UTF-8 (as ``errors="surrogateescape"`` leaves them) are read as
    Windows-1252. Mojibake goes through ftfy where its badness heuristic finds some.
    """
    if text.isascii():
        return text
    text = _LONE_SURROGATE.sub(_character_meant, text)
    return str(ftfy.fix_encoding(text)) if is_bad(text) else text


def clean_text(text: str) -> str:
    """Encoding repaired, Unicode NFC, control characters and white space runs one space."""
    text = unicodedata.normalize("NFC", repair_text(text))
    return " ".join(_CONTROL.sub(" ", text).split())


def mask_text(text: str) -> str:
    """Text without URLs and without words that name one of the sixteen types.

    Types count in any case, with a plural or suffix, and joined to other words where that cannot
    be an English word. Masking what is masked changes nothing. Linear in the length of the text.
    """
    if _MAY_HOLD_URL.search(text):
        text = _URL.sub(LINK_WORD, text)
    if _MAY_HOLD_TYPE.search(text):
        text = _TYPE.sub(TYPE_WORD, text)
    return text


def type_mentions(text: str) -> list[str]:
    """The types, in capitals and in order, of the words that `mask_text` hides as naming a type.

    A word counts once, for the type that makes it one: "teamINTJ" and "intjs" for INTJ. Read as
    written: a type in an address counts, too.
    """
    if not _MAY_HOLD_TYPE.search(text):
        return []
    return [match[match.lastindex or 0].upper() for match in _TYPE.finditer(text)]


def read_text(text: str, *, mask: bool) -> str:
    """What the model reads: `clean_text`, then `mask_text` if ``mask``."""
    text = clean_text(text)
    return mask_text(text) if mask else text


def _character_meant(match: re.Match[str]) -> str:
    byte = ord(match.group()) - 0xDC00
    if not 0x80 <= byte <= 0xFF:
        return "\N{REPLACEMENT CHARACTER}"
    return bytes([byte]).decode("cp1252", errors="replace")
