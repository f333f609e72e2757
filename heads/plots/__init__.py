"""Figures of results, as people paste them into a paper; Matplotlib is imported when one is drawn."""
