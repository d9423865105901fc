"""Where an adapter's files come from: directories, the hub, URLs, and the disk cache between.

May import: adapters.peft, durable, errors.
"""
