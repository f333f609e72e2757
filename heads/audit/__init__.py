"""Errors in a data set, found from its rows."""
