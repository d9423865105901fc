"""OpenAI's forms of completions and of chats: what may be sent, and what is answered.

May import: http, http.bodies, http.openai.answers, http.openai.requests, lora_runtime, operations,
request_ids.
"""
