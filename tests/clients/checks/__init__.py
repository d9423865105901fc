"""Checks of one client each: `python -m tests.clients.checks.NAME URL REPORT`, run by the clients' Python."""
