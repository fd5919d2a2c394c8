"""Re-creates the pocket world's weights from a seed: `python -m textual_inversion_ext.pocket.build`."""
