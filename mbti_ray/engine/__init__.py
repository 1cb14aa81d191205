"""The one training loop, precision, optimiser and checkpoint: torch, no Ray, no cluster paths."""
