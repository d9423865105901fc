"""Adapters: PEFT configuration and files, checked and accounted for; versions, aliases and leases."""
