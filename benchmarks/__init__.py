"""Speed, memory and accuracy beside other systems and the machine: each is started as `python -m
benchmarks.X`.

May import: nothing.
"""
