"""The encoder, its four heads and the loss: torch and transformers, nothing of Ray or ranks."""
