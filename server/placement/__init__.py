"""Which replicas serve which adapter, as a table that Envoy routes by: `loramux placement`.

May import: logs.
"""
