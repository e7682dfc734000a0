"""Readings of a soft prompt: pure functions from prompts and vocabularies to plain records."""
