"""The encoder, its four heads and the loss: torch and transformers, no Ray, no ranks."""
