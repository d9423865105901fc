"""Adapters: what they are on a device, from PEFT's files to slots.

May import: adapters.peft, modules.
"""
