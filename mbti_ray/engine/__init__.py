"""The training loop, precision, optimizer and checkpoints: torch only, no Ray, no cluster paths."""
