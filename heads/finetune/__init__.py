"""Head and upper layers of the backbone trained together, from where the cached head ended."""
