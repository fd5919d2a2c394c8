"""BibTeX of papers that several parts of the library cite; what one part cites stands with it."""

from __future__ import annotations

GAL_2022 = """@inproceedings{gal2023textual,
  title     = {An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion},
  author    = {Gal, Rinon and Alaluf, Yuval and Atzmon, Yuval and Patashnik, Or and Bermano, Amit H. and
               Chechik, Gal and Cohen-Or, Daniel},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""
