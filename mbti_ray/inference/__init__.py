"""From a trained model to predictions: bundles, runtimes, evaluation. Must not import Ray."""
