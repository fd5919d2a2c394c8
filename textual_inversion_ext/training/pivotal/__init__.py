"""Pivotal tuning: a LoRA that trains beside the rows."""
