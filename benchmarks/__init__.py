"""Measurements of speed and quality that anyone can run again; what they gave is in RESULTS.md."""
