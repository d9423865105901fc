"""The page that shows a server to people, and the form that asks for a token before it.

May import: http.calls, http.errors, http.route.
"""
