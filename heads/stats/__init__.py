"""Arrays in, numbers out: metrics, intervals, tests."""
