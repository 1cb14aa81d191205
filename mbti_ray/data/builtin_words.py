"""The words of the built-in corpus: cue words by pole, and the sentences around them.

Data only. No cue belongs to two poles, and no sentence contains a cue (a test checks both); nearly
all are single tokens of an English WordPiece vocabulary. Which word stands for which pole is a
cliché, chosen to be readable; it is not a finding.
"""

CUES: dict[str, tuple[str, ...]] = {
    "E": (
        "parties", "crowds", "concerts", "karaoke", "festivals", "gatherings", "strangers",
        "dancing", "teammates", "nightclubs", "neighbors", "meetings", "parades", "clubs",
    ),
    "I": (
        "solitude", "silence", "books", "diaries", "candles", "tea", "blankets", "libraries",
        "headphones", "naps", "journals", "novels", "bedrooms", "privacy",
    ),
    "S": (
        "recipes", "tools", "engines", "gardens", "hiking", "furniture", "facts", "cooking",
        "bicycles", "boots", "kitchens", "hammers", "soil", "repairs",
    ),
    "N": (
        "theories", "dreams", "metaphors", "patterns", "possibilities", "symbols", "philosophy",
        "universes", "puzzles", "visions", "myths", "imagination", "mysteries", "meanings",
    ),
    "T": (
        "logic", "evidence", "arguments", "algorithms", "statistics", "debates", "proofs",
        "efficiency", "data", "chess", "equations", "criticism", "software", "physics",
    ),
    "F": (
        "feelings", "kindness", "hugs", "empathy", "compassion", "harmony", "tears", "friendship",
        "gratitude", "affection", "romance", "comfort", "puppies", "forgiveness",
    ),
    "J": (
        "schedules", "deadlines", "lists", "calendars", "plans", "budgets", "routines", "rules",
        "appointments", "goals", "folders", "alarms", "discipline", "contracts",
    ),
    "P": (
        "surprises", "improvisation", "adventures", "clutter", "experiments", "options",
        "wandering", "chaos", "freedom", "curiosity", "distractions", "impulses", "gambling",
        "shortcuts",
    ),
}  # fmt: skip

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
