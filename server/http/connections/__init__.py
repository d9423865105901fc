"""The port and its connections: who has a place, how long, and how connections end.

May import: http, lifecycle.
"""
