"""What a feature file's task means for heads: what they are fitted to, how they are scored, what they say."""
