"""Images as the network sees them, for people to look at."""
