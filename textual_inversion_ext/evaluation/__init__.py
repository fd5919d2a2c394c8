"""Is the word any good: metrics, protocols, reports, comparisons."""
