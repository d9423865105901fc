"""OpenAI's forms of completions and of chats: what may be sent, and what is answered.

May import: answer_size, http, lora_runtime, request_ids.
"""
