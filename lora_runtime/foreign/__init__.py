"""Work on strangers' files, in processes of their own with limits of time and memory.

May import: errors.
"""
