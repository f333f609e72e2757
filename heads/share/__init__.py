"""Rows, labels and predictions as other tools take them."""
