"""Signals for routers and boards, under the names that vLLM gives them.

May import: lora_runtime.
"""
