"""Bases brought to a directory from a hub, a store or an archive: `loramux fetch`.

May import: files, lora_runtime, tls.
"""
