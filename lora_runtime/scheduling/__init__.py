"""Whose tokens run next, in which blocks, and the packed batch of a step."""
