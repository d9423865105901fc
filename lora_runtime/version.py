"""The version of loramux."""

__version__ = "0.1.0"
