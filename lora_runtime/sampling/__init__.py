"""From logits to an event."""
