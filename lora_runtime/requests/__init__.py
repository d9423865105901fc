"""A request while it lives: its sequences, its text, its handle."""
