"""The HTTP front: OpenAI's forms, health, metrics; the same engine, tokens and limits as gRPC's.

May import: adapter_changes, auth, errors, http.openai, lifecycle, logs, lora_runtime, request_ids,
submission, threads.
"""
