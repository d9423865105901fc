"""Clients of other makers, as they are, against a server on SmolLM2: `make clients`.

`checks/` runs in the clients' own environment and imports nothing of loramux.
"""
