"""`python -m loramux_server` is `loramux`; in a checkout, where nothing needs to be installed,
`python -m server`."""

from .entry import main

main()
