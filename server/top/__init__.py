"""What `loramux top` draws: a server's status and adapters in a terminal, again and again.

May import: nothing.
"""
