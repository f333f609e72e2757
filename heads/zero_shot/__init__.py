"""Heads from the names of classes: prompts, the rows of their texts, and what starts from these."""
