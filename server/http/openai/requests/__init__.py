"""What a request says: the table of fields, how each is read, and what the engine gets.

May import: lora_runtime.
"""
