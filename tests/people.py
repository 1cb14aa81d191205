"""People whose posts tests have the model read."""

PERSON = ["a quiet evening with a book", "party " * 40, "Ünïcode 🙂", "plans for the week", "tea"]
TEXTS = [PERSON, ["alone at last"], ["a", "b c", "a"], ["one more evening of this " * 12]]
