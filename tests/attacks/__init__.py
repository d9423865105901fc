"""Attacks on a real server, each beside an innocent caller that must not notice: `make test-attacks`.

A test names an attack and the answers that it must get; arena.py holds the server to the rest.
"""
