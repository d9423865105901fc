"""Pages beside OpenAI's two: health, metrics, status, models, tokens, adapters loaded and unloaded.

May import: auth, errors, http, http.bodies, http.openai.requests, lifecycle, lora_runtime,
message_json, operations.
"""
