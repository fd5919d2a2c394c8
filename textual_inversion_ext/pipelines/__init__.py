"""Load pipelines, make pictures with learned words, and lay them out on sheets."""
