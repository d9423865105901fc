"""Adapters: from PEFT's files to slots, and what they are on a device.

May import: adapters.peft, modules.
"""
