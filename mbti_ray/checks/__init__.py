"""The checks of doctor: facts of one machine, and verdicts on them. Must not import Ray."""
