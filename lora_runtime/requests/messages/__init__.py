"""Messages of an answer: content, reasoning and tool calls, told apart as they come.

May import: api, errors, foreign, requests.text.
"""
