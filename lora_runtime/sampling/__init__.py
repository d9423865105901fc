"""Steps from logits to an event."""
