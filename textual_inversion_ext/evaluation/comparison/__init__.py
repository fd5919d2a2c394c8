"""Runs beside each other: tables with intervals, the editability-versus-reconstruction plot, and their files."""
