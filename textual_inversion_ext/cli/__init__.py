"""The command line: one file per verb, one parser for the console and for ``accelerate launch``."""
