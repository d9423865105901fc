"""Values that cross the public API: requests in, events and reports out.

May import: errors.
"""
