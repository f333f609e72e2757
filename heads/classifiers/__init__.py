"""The heads, one file each, in scikit-learn's manner."""
