"""Grammars: what the tokens of a structured answer may be, worked out beside the steps.

May import: adapters.peft.tokenizer, api, errors, foreign.
"""
