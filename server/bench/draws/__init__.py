"""What a load is made of, drawn by its seed: when calls are due, which adapters and prompts they ask.

May import: nothing.
"""
