"""Bases brought to a directory from a hub, a store or an archive: `loramux fetch`.

May import: lora_runtime.
"""
