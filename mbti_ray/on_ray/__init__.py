"""Everything that imports Ray, and everything that knows how many machines there are."""

import os

# Read when Ray is imported. Without the first, the dashboard's Train tab stays empty; the second
# would print a table of every trial again and again into logs that nobody watches.
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
