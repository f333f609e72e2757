"""The one pass: every image of a folder through a backbone once, into a feature file."""
