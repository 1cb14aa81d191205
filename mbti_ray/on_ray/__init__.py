"""The only package that imports Ray, and that knows how many machines there are."""

import os

_SETTINGS = {
    # Without it Ray records no runs: /api/train/v2/runs/v1 stays empty.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # How often the controller polls for reports: at the default of 2 s every evaluation and every
    # checkpoint delays the training by that long.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Otherwise Tune prints a table of all trials repeatedly.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune's handler would stop the running trials at the first Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The study's database already has what Tune's CSV, JSON and TensorBoard files would have.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Keep CUDA_VISIBLE_DEVICES for processes to which Ray gives no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Read when Ray is imported or starts; values that the user has set are kept.
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
