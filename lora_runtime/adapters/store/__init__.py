"""Ids, versions, leases and slots."""
