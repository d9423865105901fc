"""The oldest versions that are supported together, which are those of the machine that a lease was
written for.

May import: gpu.stages.
"""
