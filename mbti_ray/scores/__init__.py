"""Metrics of predictions: scores, scorecard, calibration, baselines, diagnosis."""
