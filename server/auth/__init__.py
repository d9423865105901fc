"""Authorization of calls: bearer tokens, their scopes, and the interceptor that asks for them.

May import: files, locations, logs, lora_runtime, request_ids, tracing, yaml_files.
"""
