"""Sources that adapters come from (directories, the hub, URLs), and the disk cache before them.

May import: adapters.peft, durable, errors, permissions.
"""
