"""Reading of PEFT's files into checked updates: what cannot be applied is refused by name.

May import: api, config, errors, model, modules, permissions.
"""
