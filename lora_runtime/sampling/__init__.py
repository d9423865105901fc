"""Sampling: from logits to tokens, and from tokens to events.

May import: api, kernels, requests, scheduling.
"""
