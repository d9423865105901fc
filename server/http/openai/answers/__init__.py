"""What is answered: whole as JSON, or in increments as server-sent events.

May import: http, http.openai.requests, lora_runtime.
"""
