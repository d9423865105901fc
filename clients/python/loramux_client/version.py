"""The version of the client, which is loramux's."""

__version__ = "0.1.0"
