"""The ``accelerate launch`` door: the same command as ``textual-inversion train``.

    accelerate launch examples/train_textual_inversion.py --train_data_dir ./corgi --placeholder_token "<corgi>" \
        --initializer_token dog --output_dir out

The training command in the README of diffusers' ``examples/textual_inversion`` runs with this script as it is.
"""

from __future__ import annotations

import sys

from textual_inversion_ext.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
