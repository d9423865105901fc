"""`python -m server` is `loramux`."""

from .cli import main

main()
