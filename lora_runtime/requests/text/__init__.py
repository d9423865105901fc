"""Text of an answer: from its tokens as they come, to where a stop string begins.

May import: api.
"""
