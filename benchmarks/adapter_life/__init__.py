"""Adapters that come and go while requests run: many, cold ones, those of two tenants, and a storm
of changes.

May import: common, lora_runtime.
"""
