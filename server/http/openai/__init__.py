"""OpenAI's forms of completions and of chats: what may be sent, and what is answered.

May import: http, logs, lora_runtime.
"""
