"""Fitted heads as plain arrays that predict by numpy alone."""
