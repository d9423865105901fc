"""Prompts of requests: texts and conversations within bounds, as token ids.

May import: api, errors, foreign, requests.text.
"""
