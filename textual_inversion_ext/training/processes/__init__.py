"""Several processes: what they share, who writes, and how they agree."""
