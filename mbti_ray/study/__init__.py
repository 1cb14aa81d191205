"""Studies as Optuna stores them: database, sampling, trial records. Must not import Ray."""
