"""How a lease runs: stages in processes of their own, with limits; rows of results that are kept as
they come.

May import: gpu.
"""
