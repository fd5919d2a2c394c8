"""Protocols: the counts of their sources, prompts that the pocket world can read, the user's own files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.metrics import METRICS
from textual_inversion_ext.evaluation.protocols import (
    PROTOCOLS,
    Attribute,
    Protocol,
    ProtocolPrompt,
    protocol_named,
    read_protocol,
)
from textual_inversion_ext.evaluation.protocols.dreambench import SUBJECTS
from textual_inversion_ext.pocket import load_pipeline
from textual_inversion_ext.tokens import word_ids

EVERY = [PROTOCOLS[name] for name in PROTOCOLS] + [each.pocket for each in PROTOCOLS.values() if each.pocket]
every = pytest.mark.parametrize("protocol", EVERY, ids=lambda each: f"{each.name}{'' if each.pocket else '-pocket'}")


def texts(protocol: Protocol) -> list[str]:
    prompts = (*protocol.prompts, *protocol.live_prompts, *protocol.style_prompts)
    return [prompt.text for prompt in prompts]


# name -> prompts, pictures of each, steps, guidance, text mode
COUNTS = {
    "quick": (4, 4, None, None, "omit"),
    "report": (6, 8, None, None, "omit"),
    "gal": (5, 64, 50, 5.0, "omit"),
    "dreambench": (25, 4, None, None, "class"),
    "multi": (2, 16, None, None, "class"),
    "bias": (1, 64, None, None, "omit"),
}


def test_the_numbers_are_those_of_the_sources() -> None:
    found = {
        name: (len(p.prompts), p.seeds, p.num_inference_steps, p.guidance_scale, p.text_mode)
        for name, p in PROTOCOLS.items()
    }
    assert found == COUNTS
    assert PROTOCOLS["gal"].scheduler == "ddim"
    assert [prompt.aim for prompt in PROTOCOLS["gal"].prompts] == ["likeness", *["obedience"] * 4]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_pocket_version_has_the_same_counts(name: str) -> None:
    full, pocket = PROTOCOLS[name], PROTOCOLS[name].pocket
    assert pocket is not None
    assert (len(pocket.prompts), pocket.seeds, pocket.places) == (len(full.prompts), full.seeds, full.places)
    assert full.on("pocket") is pocket
    assert full.on("stable-diffusion-v1-5/stable-diffusion-v1-5") is full


@every
def test_a_protocol_says_where_it_is_from(protocol: Protocol) -> None:
    assert protocol.source
    assert len(set(texts(protocol))) == len(
        set(protocol.prompts) | set(protocol.live_prompts) | {*protocol.style_prompts}
    )
    assert set(protocol.metrics) <= set(METRICS)
    for row in protocol.published:
        assert row.told.startswith(row.source)
        assert all(0 < value < 1 for _, value in row.values), "published numbers are on the scale of cosines"


def test_dreambench_is_the_published_list() -> None:
    protocol = PROTOCOLS["dreambench"]
    things = [prompt.text for prompt in protocol.prompts_for("object", "backpack")]
    live = [prompt.text for prompt in protocol.prompts_for("object", "dog")]
    assert len(things) == len(live) == 25
    assert sum(thing == other for thing, other in zip(things, live, strict=True)) == 15
    assert "a {} with the Eiffel Tower in the background" in things
    assert "a {} wearing a black top hat and a monocle" in live
    assert (len(SUBJECTS), len(set(SUBJECTS.values()))) == (30, 15)
    counted = [len(protocol.prompts_for("object", kind)) for kind in SUBJECTS.values()]
    assert sum(counted) * protocol.seeds == 3000, "30 subjects x 25 prompts x 4 pictures"
    lists = [protocol.prompts_for("object", kind) is protocol.live_prompts for kind in SUBJECTS.values()]
    assert sum(lists) == 9, "9 of the 30 subjects are living ones"
    assert dict(protocol.classes) == SUBJECTS


def test_every_word_of_a_pocket_prompt_is_in_the_pocket_vocabulary() -> None:
    tokenizer = load_pipeline().tokenizer
    pockets = [each.pocket for each in PROTOCOLS.values() if each.pocket]
    prompts = [text for protocol in pockets for text in texts(protocol)]
    prompts += [text for protocol in pockets for attribute in protocol.attributes for text in attribute.texts]
    words = {word for text in prompts for word in text.replace("{}", " ").replace("-", " ").split()}
    assert {word for word in words if len(word_ids(tokenizer, word)) != 1} == set()


def test_styles_and_living_things_get_their_own_prompts() -> None:
    quick = PROTOCOLS["quick"]
    assert all("style of {}" in prompt.text for prompt in quick.prompts_for("style"))
    assert quick.prompts_for("object", "dog") == quick.prompts
    gal = PROTOCOLS["gal"]
    assert gal.prompts_for("style") == gal.prompts, "the paper has no list for styles"
    dreambench = PROTOCOLS["dreambench"]
    assert dreambench.prompts_for("object", "stuffed animal") == dreambench.prompts
    assert dreambench.prompts_for("object", None) == dreambench.prompts


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("A photo of {}", "cat", "A photo of a cat"),
        ("A photo of {}", "a red cat", "A photo of a red cat"),
        ("A photo of {}", "orange cat", "A photo of an orange cat"),
        ("A photo of {}", "glasses", "A photo of glasses"),
        ("An illustration of my {}", "a red cat", "An illustration of my red cat"),
        ("A photo of a nice {}", "the cat", "A photo of a nice cat"),
        ("a {} on the beach", "cat", "a cat on the beach"),
        ("{} on the beach", "cat", "cat on the beach"),
    ],
)
def test_descriptions_get_the_article_that_english_wants(text: str, phrase: str, expected: str) -> None:
    assert ProtocolPrompt(text).described(phrase) == expected


def test_words_go_in_as_they_are() -> None:
    assert ProtocolPrompt("A {} next to a {}").filled("<{}>", "<b>") == "A <{}> next to a <b>"
    assert ProtocolPrompt("a {} next to a {}").described("cat", "a red dog") == "a cat next to a red dog"


def test_settings_leave_open_only_what_the_source_leaves_open() -> None:
    settings = PROTOCOLS["gal"].settings((30, 4.0), batch_size=8)
    assert (settings.num_inference_steps, settings.guidance_scale, settings.batch_size) == (50, 5.0, 8)
    settings = PROTOCOLS["quick"].settings((30, 4.0))
    assert (settings.num_inference_steps, settings.guidance_scale) == (30, 4.0)


def test_a_text_file_of_prompts(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\ufeff# mine\nA photo of {}\n\n  a <cat> made of glass \n", encoding="utf-8")
    protocol = protocol_named(file, "<cat>")
    assert texts(protocol) == ["A photo of {}", "a {} made of glass"]
    assert (protocol.name, protocol.seeds, protocol.pocket) == ("own.txt", 4, None)
    assert protocol.on("pocket") is protocol


def test_a_word_without_brackets_is_not_found_inside_others(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("an Art on a cart\nthe art, part of a party\n", encoding="utf-8")
    assert texts(read_protocol(file, "art")) == ["an {} on a cart", "the {}, part of a party"]
    file.write_text("a cart on the beach\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'a cart on the beach' does not say once where the word goes"):
        read_protocol(file, "art")


def test_a_json_file_says_more(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    content = {
        "prompts": ["A photo of {}", {"text": "{} as a toy", "aim": "obedience"}],
        "seeds": 2,
        "num_inference_steps": 7,
        "guidance_scale": 0,
        "text_mode": "class",
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    protocol = read_protocol(file)
    assert protocol.prompts == (ProtocolPrompt("A photo of {}"), ProtocolPrompt("{} as a toy", "obedience"))
    settings = protocol.settings((30, 4.0))
    assert (settings.num_inference_steps, settings.guidance_scale, protocol.text_mode) == (7, 0.0, "class")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "A photo of a cat", "does not say once where the word goes"),
        ("a.txt", "{} next to {}", "does not say once where the word goes"),
        ("a.txt", "\n# nothing\n", "holds no prompt"),
        ("a.txt", "A {}\nA {}", "twice"),
        ("a.json", '["A {}"]', "must hold a JSON object"),
        ("a.json", '{"prompts": "A {}"}', "must be a list"),
        ("a.json", '{"prompts": [{"txt": "A {}"}]}', "a prompt is"),
        ("a.json", '{"prompts": [{"text": "A {}", "aim": "beauty"}]}', "aim 'beauty'"),
        ("a.json", '{"prompts": ["A {}"], "seeds": 0}', "seeds is 0"),
        ("a.json", '{"prompts": ["A {}"], "seed": 1}', "unknown keys seed"),
        ("a.json", '{"prompts": ["A {}"], "guidance_scale": NaN}', "guidance_scale"),
        ("a.json", '{"prompts": ["A {}"], "text_mode": "skip"}', "text_mode is 'skip'"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        protocol_named(file)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="allowed: quick, report, gal, dreambench, multi, bias, or a text file"):
        protocol_named("dreambooth")


def test_a_protocol_without_a_place_for_the_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds 0 times {}; write {} once"):
        Protocol(name="mine", source="", prompts=(ProtocolPrompt("A photo"),), seeds=1)
    with pytest.raises(ConfigError, match="write {} 2 times"):
        Protocol(name="mine", source="", prompts=(ProtocolPrompt("A {}"),), seeds=1, places=2)
    with pytest.raises(ConfigError, match="at least two different values"):
        Attribute("hair", ("dark",), ("dark hair",))


def test_listing_protocols_loads_no_torch() -> None:
    script = "import sys, textual_inversion_ext.evaluation.protocols as p; print(*p.PROTOCOLS, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [*PROTOCOLS, "False"]
