"""Reading of PEFT's files into checked updates: what cannot be applied is refused by name.

May import: adapters.peft.tokenizer, api, config, errors, foreign, model, modules, permissions.
"""
