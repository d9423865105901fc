"""Registered adapters: ids, versions, leases, host memory and slots.

May import: adapters, adapters.peft, adapters.sources, api, config, errors, foreign.
"""
