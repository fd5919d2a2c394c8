from __future__ import annotations

from typing import get_args

from textual_inversion_ext.concept import LearnableProperty
from textual_inversion_ext.data.prompts.templates import PHOTO_TEMPLATES, STYLE_TEMPLATES, TEMPLATES


def test_there_are_as_many_as_in_the_paper() -> None:
    assert (len(PHOTO_TEMPLATES), len(set(PHOTO_TEMPLATES))) == (27, 27)
    assert (len(STYLE_TEMPLATES), len(set(STYLE_TEMPLATES))) == (19, 17)


def test_each_has_one_place_for_the_word_and_no_full_stop() -> None:
    for template in PHOTO_TEMPLATES + STYLE_TEMPLATES:
        assert template.count("{}") == 1 and template.count("{") == template.count("}") == 1
        assert template.endswith("{}") and template == template.strip().lower()


def test_every_property_has_its_templates() -> None:
    assert set(TEMPLATES) == set(get_args(LearnableProperty))
    assert all("style" in template for template in TEMPLATES["style"])
    assert not any("style" in template for template in TEMPLATES["object"])
