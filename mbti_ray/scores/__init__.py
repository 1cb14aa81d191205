"""From logits to figures: counts, scorecard, calibration, baselines, diagnosis."""
