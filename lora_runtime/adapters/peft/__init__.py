"""PEFT's directories to checked updates: what cannot be applied is refused by name.

May import: api, config, errors, model, modules.
"""
