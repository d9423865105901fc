"""The CPU path by itself: its kernels beside the machine's ceilings, and what its number formats cost in accuracy."""
