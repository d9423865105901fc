"""Adapter directories made at random, and what PEFT makes of each."""
