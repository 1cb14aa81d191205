"""The built-in corpus: synthetic users for whom the best possible scores are known.

SYNTHETIC: nobody wrote these posts. They show that training, tuning and serving work, and support
no claim about people. Only the shares of the types are those of the public MBTI set.

On each dimension the *shown* pole is the true one, except with probability `NOISE`; the posts
contain at least two words of each shown pole and none of the others, so no classifier can do more
than read them. `NOISE` is below the share of every minority pole (E 23.0 %, S 13.8 %, T 45.9 %, J
39.6 %; also given the other three poles shown), so the best guess is the type shown: correct with
probability 1 - NOISE per dimension, and with their product for the whole type. That holds for
masked text; a third of the users name their true type, as people in the public set do.
"""

import math
from collections.abc import Sequence
from random import Random

from mbti_ray.data.rows import Row
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of, type_of

TYPE_COUNTS = {
    "INFP": 1832, "INFJ": 1470, "INTP": 1304, "INTJ": 1091, "ENTP": 685, "ENFP": 675,
    "ISTP": 337, "ISFP": 271, "ENTJ": 231, "ISTJ": 205, "ENFJ": 190, "ISFJ": 166,
    "ESTP": 89, "ESFP": 48, "ESFJ": 42, "ESTJ": 39,
}  # fmt: skip
"""Users of each type in the public MBTI set (Kaggle, 8,675 users)."""

NOISE = (0.05, 0.04, 0.05, 0.06)
"""Probability that the pole shown is not the true one, in the order E/I, S/N, T/F, J/P."""

_REACHABLE = {f"acc_{d.key}": 1 - noise for d, noise in zip(DIMENSIONS, NOISE, strict=True)}
BEST_POSSIBLE: dict[str, float] = {
    **_REACHABLE,
    "acc_mean": sum(_REACHABLE.values()) / len(_REACHABLE),
    "acc_total": math.prod(_REACHABLE.values()),
}
"""Expected scores of the best possible classifier on masked text, by score name."""

# No cue belongs to two poles, and no sentence contains a cue; nearly all are single tokens of an
# English WordPiece vocabulary. Which word stands for which pole is a cliché, chosen to be readable;
# it is not a finding.
_CUES = {
    "E": "parties crowds concerts karaoke festivals gatherings strangers dancing teammates "
    "nightclubs neighbors meetings parades clubs",
    "I": "solitude silence books diaries candles tea blankets libraries headphones naps journals "
    "novels bedrooms privacy",
    "S": "recipes tools engines gardens hiking furniture facts cooking bicycles boots kitchens "
    "hammers soil repairs",
    "N": "theories dreams metaphors patterns possibilities symbols philosophy universes puzzles "
    "visions myths imagination mysteries meanings",
    "T": "logic evidence arguments algorithms statistics debates proofs efficiency data chess "
    "equations criticism software physics",
    "F": "feelings kindness hugs empathy compassion harmony tears friendship gratitude affection "
    "romance comfort puppies forgiveness",
    "J": "schedules deadlines lists calendars plans budgets routines rules appointments goals "
    "folders alarms discipline contracts",
    "P": "surprises improvisation adventures clutter experiments options wandering chaos freedom "
    "curiosity distractions impulses gambling shortcuts",
}
CUES: dict[str, tuple[str, ...]] = {pole: (*words.split(),) for pole, words in _CUES.items()}

TWO_CUES = (
    "this week was all about {} and {}",
    "give me {} and {} any day",
    "i keep thinking about {} and also {}",
    "my sister says i talk about {} and {} too much",
    "honestly {} and {} made my whole month",
    "between {} and {} there is no time left",
    "could not live without {} or {} these days",
    "so happy with {} and some {} tonight",
    "what would life be without {} and {}",
    "yesterday it was {} again, today {}",
)
ONE_CUE = (
    "nothing beats {} on a day like this",
    "people ask me why i like {} so much",
    "i will never get tired of {}",
    "more {} this weekend, i cannot wait",
)
FILLERS = (
    "traffic was terrible again this morning",
    "does anyone know a good dentist around here",
    "the weather has been strange lately",
    "cannot believe it is already monday",
    "my phone battery died twice today",
    "had pizza for dinner and it was fine",
    "thanks for all the birthday wishes",
    "the bus was late and it rained",
)
NAMINGS = (
    "as an {} i can relate to this",
    "i took the test again and got {}",
    "typical {} moment over here",
    "are there any other {}s in this thread",
    "my brother is not an {} but i am",
)
EMOJI = ("😂", "❤️", "😊", "🙏", "🔥", "🤔")

_POSTS_A_USER = 7
_NAMES_OWN_TYPE = 1 / 3
_THIRD_CUE = 0.5
_HAS_LINK = 0.08
_HAS_EMOJI = 0.12


def builtin_rows(*, users: int = 2400, seed: int = 20260) -> list[Row]:
    """Synthetic users, shuffled; types in proportion to `TYPE_COUNTS` (largest remainder).

    Equal arguments give equal rows on every machine and every Python from 3.11.
    """
    random = Random(seed)
    types = [t for t, count in _allocate_types(users).items() for _ in range(count)]
    return [
        Row(number, mbti_type, _generate_posts(random, mbti_type))
        for number, mbti_type in enumerate(_shuffle(random, types), start=1)
    ]


def _allocate_types(users: int) -> dict[str, int]:
    """Users of each type, summing to ``users``."""
    total = sum(TYPE_COUNTS.values())
    counts = {t: users * TYPE_COUNTS[t] // total for t in TYPES}
    by_remainder = sorted(TYPES, key=lambda t: (-(users * TYPE_COUNTS[t] % total), t))
    for mbti_type in by_remainder[: users - sum(counts.values())]:
        counts[mbti_type] += 1
    return counts


def _generate_posts(random: Random, mbti_type: str) -> tuple[str, ...]:
    flips = [random.random() < noise for noise in NOISE]
    shown = type_of(
        [label != flip for label, flip in zip(labels_of(mbti_type), flips, strict=True)]
    )
    cues: list[str] = []
    for pole in shown:
        cues += _shuffle(random, CUES[pole])[: 3 if random.random() < _THIRD_CUE else 2]
    cues = _shuffle(random, cues)
    posts = [
        _pick(random, TWO_CUES if len(pair) == 2 else ONE_CUE).format(*pair)
        for pair in (cues[i : i + 2] for i in range(0, len(cues), 2))
    ]
    if random.random() < _NAMES_OWN_TYPE:
        named = mbti_type if random.random() < 0.7 else mbti_type.lower()
        posts.append(_pick(random, NAMINGS).format(named))
    while len(posts) < _POSTS_A_USER:
        posts.append(_pick(random, FILLERS))
    return tuple(_decorate(random, post) for post in _shuffle(random, posts))


def _decorate(random: Random, post: str) -> str:
    if random.random() < _HAS_LINK:
        post += f" https://t.co/{int(random.random() * 16**7):07x}"
    if random.random() < _HAS_EMOJI:
        post += " " + _pick(random, EMOJI)
    return post


# Python guarantees the same sequence across versions only for random(), not for choice, sample
# or shuffle.
def _pick(random: Random, items: Sequence[str]) -> str:
    return items[int(random.random() * len(items))]


def _shuffle(random: Random, items: Sequence[str]) -> list[str]:
    keys = [random.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]
