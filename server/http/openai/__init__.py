"""OpenAI's forms: completions and chats.

May import: nothing.
"""
