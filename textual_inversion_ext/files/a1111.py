"""The dictionary that AUTOMATIC1111 and the first implementation of textual inversion save; read only, it is a pickle.

Source: AUTOMATIC1111/stable-diffusion-webui `modules/textual_inversion/textual_inversion.py` (`Embedding.save`),
rinongal/textual_inversion `ldm/modules/embedding_manager.py` (`save`).
"""

from __future__ import annotations

from .base import Content, Format, Found, encoder_of

__all__ = ["A1111Format"]

_PREFIX = "string_to_param."
_ANY = "*"  # AUTOMATIC1111's key for "whatever the file is called"


class A1111Format(Format):
    """``string_to_param: {"*": (n, dim)}`` with ``name``, ``step``, ``sd_checkpoint``, ``sd_checkpoint_name``.

    The first implementation has the same keys, an ``nn.ParameterDict`` in the place of the inner dictionary, any
    placeholder as its key, and nothing else.
    """

    name = "a1111"
    description = "string_to_param, as AUTOMATIC1111 saves in .pt files and in pictures"

    def recognises(self, content: Content) -> bool:
        """Looks for a tensor in ``string_to_param``.

        Args:
            content: The file's content.

        Returns:
            Whether there is one.
        """
        return any(key.startswith(_PREFIX) for key in content.tensors)

    def read(self, content: Content) -> list[Found]:
        """Takes every term of ``string_to_param``.

        Args:
            content: The file's content.

        Returns:
            A concept per term. A single one is named by ``name``, else by its key, else by the file.
        """
        terms = {key.removeprefix(_PREFIX): rows for key, rows in content.tensors.items() if key.startswith(_PREFIX)}
        of_file = "_".join((content.metadata.get("name") or content.stem).split())
        variant = (
            "picture"
            if content.container == "picture"
            else "parameter dict"
            if "parameter dict" in content.notes
            else ""
        )
        found = []
        for key, rows in terms.items():
            named_by_file = key == _ANY or (len(terms) == 1 and bool(content.metadata.get("name")))
            token = of_file if named_by_file else key
            found.append(Found(token, {encoder_of(rows, content): rows}, variant=variant))
        return found
