"""PEFT's files to checked updates."""
