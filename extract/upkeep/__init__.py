"""Feature files that already exist: verified, repaired."""
