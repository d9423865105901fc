"""The HTTP front: OpenAI's forms, health, metrics; the same engine, tokens and limits as gRPC's.

May import: auth, config, errors, http.bodies, http.connections, http.openai, http.openai.requests,
http.page, http.pages, lifecycle, logs, lora_runtime, metrics, operations, request_ids, threads,
transport.
"""
