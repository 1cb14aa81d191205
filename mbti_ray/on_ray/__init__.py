"""Everything that imports Ray, and everything that knows how many machines there are."""

import os

_SETTINGS = {
    # Without it Ray remembers nothing of runs: /api/train/v2/runs/v1 stays empty.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # How often the controller looks for reports: at the default of 2 s every evaluation and every
    # checkpoint holds the training up for as long.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Tune would print a table of all trials again and again.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Keep CUDA_VISIBLE_DEVICES as it is where Ray gives a process no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Read when Ray is imported; what a user has set stays.
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
