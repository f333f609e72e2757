"""Heads trained and tested side by side on the same images."""
