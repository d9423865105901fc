"""The frozen base: what it is."""
