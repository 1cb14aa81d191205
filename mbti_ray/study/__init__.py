"""Studies as Optuna keeps them: the database, the points, what became of each. Knows no Ray."""
