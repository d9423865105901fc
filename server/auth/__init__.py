"""Authorization of calls: bearer tokens, their scopes, and the interceptor that asks for them.

May import: files, locations, lora_runtime, yaml_files.
"""
