"""What the golden cards are made of. ``python -m tests.golden.cards.examples`` writes them again after a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hub_cards.card import Card, Contents
from hub_cards.concept_index import IndexContents, IndexEntry
from hub_cards.contents import BaseModel, CardContents, EmbeddingFile, License, Picture, Word
from hub_cards.dataset import DatasetContents
from hub_cards.facts import Metric, Protocol, Score, Training

FOLDER = Path(__file__).resolve().parent

CLIP_IMAGE, CLIP_TEXT, DINO = "clip_image (ViT-B/32)", "clip_text (ViT-B/32)", "dino (ViT-S/16)"
METRICS = (
    Metric(CLIP_IMAGE, "likeness: CLIP, ViT-B/32"),
    Metric(DINO, "likeness: DINO, ViT-S/16"),
    Metric(CLIP_TEXT, "obedience: CLIP, ViT-B/32"),
)
GAL = """@inproceedings{gal2023textual,
  title = {An Image is Worth One Word},
  author = {Gal, Rinon and others},
  year = {2023},
}"""
SD = BaseModel("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5")
PROMPTS = ("a photo of <corgi>", "a painting of <corgi>", "<corgi> on the beach")


def corgi() -> CardContents:
    """One word of Stable Diffusion with everything known about it."""
    scores = [
        (CLIP_IMAGE, "real pictures", 0.9125, 0.004, 10),
        (CLIP_IMAGE, "word", 0.7805, 0.0111, 80),
        (DINO, "word", 0.569, 0.0204, 80),
        (CLIP_TEXT, "word", 0.2552, 0.0031, 80),
        (CLIP_IMAGE, "class word", 0.6917, 0.0121, 80),
        (CLIP_TEXT, "class word", 0.2713, 0.0029, 80),
        (CLIP_IMAGE, "caption", 0.7215, 0.0119, 80),
        (CLIP_TEXT, "caption", 0.2609, 0.003, 80),
    ]
    return CardContents(
        words=(
            Word(
                "<corgi>",
                files=(EmbeddingFile("learned_embeds.safetensors"),),
                ui_file="corgi.safetensors",
                class_name="dog",
                initializer="dog",
            ),
        ),
        base_model=BaseModel(SD.name, SD.hub_id, revision="451f4fe1", family="stable-diffusion"),
        repo_id="user/corgi",
        description="The neighbours' corgi, who never looks into the camera.",
        license=License("creativeml-openrail-m", inherited_from=SD.name),
        pictures=tuple(
            Picture(f"pictures/{place}-{seed}.png", prompt, seed)
            for place, prompt in enumerate(PROMPTS)
            for seed in range(2)
        ),
        scores=tuple(Score(*score) for score in scores) + (Score(CLIP_TEXT, "word", 0.3, 0.01, 4, prompt=PROMPTS[0]),),
        metrics=METRICS,
        protocol=Protocol(
            "gal2023",
            "Gal et al. 2022, section 4.2",
            20,
            4,
            50,
            7.5,
            "nothing (it was left out)",
            dataset="user/corgi-pictures",
        ),
        datasets=("user/corgi-pictures",),
        training=Training(
            images=5,
            recipe="paper",
            steps=500,
            seconds=212.4,
            stopped="max_train_steps",
            hardware="NVIDIA H200",
            versions={"torch": "2.13.0", "diffusers": "0.42.1"},
            settings={"learning_rate": "0.005", "train_batch_size": "4"},
            digest="9f86d081884c7d65",
        ),
        limits=("The prompts are 20 of the paper's 27.",),
        citations=(GAL, GAL),
        library="textual-inversion-ext 0.1.0",
    )


def sdxl() -> CardContents:
    """A style of Stable Diffusion XL with a LoRA; never evaluated."""
    return CardContents(
        words=(
            Word(
                "<duotone>",
                files=(
                    EmbeddingFile("learned_embeds.safetensors"),
                    EmbeddingFile("learned_embeds_2.safetensors", "text_encoder_2"),
                ),
                ui_file="duotone.safetensors",
                num_vectors=4,
                learnable_property="style",
            ),
        ),
        base_model=BaseModel(
            "stabilityai/stable-diffusion-xl-base-1.0",
            "stabilityai/stable-diffusion-xl-base-1.0",
            family="stable-diffusion-xl",
        ),
        repo_id="user/duotone",
        license=License("other", "Duotone License", "https://example.org/licence (1).txt"),
        pictures=(Picture("pictures/1.png", "a harbour in the style of <duotone>", 7),),
        lora_file="pytorch_lora_weights.safetensors",
        training=Training(images=12, seconds=95),
    )


def several() -> CardContents:
    """Two words in one repository, both evaluated; no pictures."""
    return CardContents(
        words=tuple(
            Word(f"<{name}>", (EmbeddingFile(f"{name}/learned_embeds.safetensors"),), f"{name}/{name}.safetensors", 2)
            for name in ("cat", "dog")
        ),
        base_model=SD,
        repo_id="user/pets",
        scores=tuple(
            Score(CLIP_IMAGE, "word", mean, 0.01, 8, token=token) for token, mean in (("<cat>", 0.75), ("<dog>", 0.5))
        )
        + (Score(DINO, "word", float("nan"), None, 8, token="<dog>"),),
        protocol=Protocol("short"),
    )


def bare() -> CardContents:
    """Almost nothing is known: a word of a model in some folder."""
    word = Word("sks", (EmbeddingFile("learned_embeds.safetensors", "text_encoder_2"),))
    return CardContents(words=(word,), base_model=BaseModel("my-model"))


# One for each thing that text can do to YAML, Markdown, HTML, a path or Python, or to the card's own marks.
NASTY = (
    "a \"quoted\": 'one', [x](javascript:alert(1)) ![y](//evil.example/z.png)",
    "ends\n---\nlicense: mit",
    "# Heading\n\n- item\r\n> quote\n1. one\n===",
    "```\ncode\n``` `` `",
    "</code><script>alert(1)</script> <img src=x onerror=alert(1)> &lt;b&gt;",
    "cell | cell \\| cell \\",
    "$$x$$ \\(y\\) {{ 7 * 7 }} {% raw %} *a* _b_ ~~c~~",
    "https://evil.example www.evil.example me@evil.example <https://evil.example>",
    "<!-- end of own section -->\n<!-- own section: about (kept when this card is written again) -->\nmine",
    "\u202eright-to-left\u2066 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f469\u200d\U0001f467 half \ud83d of one \u2028 \x85 \x1b[31m \0",
    "yes: no, null, 1e3, !!python/object:os.system, &anchor *alias",
)


def nasty() -> CardContents:
    """Everything that somebody may have typed is as bad as it can be."""
    return with_texts(iter(NASTY * 5))


def with_texts(texts: Iterator[str]) -> CardContents:
    """A card with these in the places that take any text, one after the other."""
    some = texts.__next__
    # The beginnings keep apart what has to differ, whatever the texts are.
    token, metric, subject, file = f"a{some()}", f"a{some()}", f"a{some()}", _file(some())
    scores = [Score(name, whose, 0.5, 0.1, 4, token=token) for name in (metric, "b") for whose in ("word", subject)]
    return CardContents(
        words=(
            Word(token, (EmbeddingFile(f"{file}.safetensors"),), f"{file}+ui.safetensors", 1, "style", some(), some()),
            Word("<b>", (EmbeddingFile("b/learned_embeds.safetensors"),), None, class_name=some(), initializer=some()),
        ),
        base_model=BaseModel(some(), family=some()),
        title=some(),
        description=some(),
        license=License("other", some(), f"https://example.org/{some()}"),
        pictures=(Picture(f"pictures/{file}.png", f"a {some()}", 1), Picture("pictures/b.png", f"b {some()}", 2)),
        references=(Picture("references/a.png", some()),),
        scores=tuple(scores),
        metrics=(Metric(metric, some(), higher_is_better=False),),
        protocol=Protocol(some(), some(), text=some()),
        training=Training(5, some(), 1, 1, some(), some(), {some(): some()}, {some(): some()}, some()),
        limits=(some(),),
        citations=(some(),),
        library=some(),
        tags=(some(),),
    )


def _file(value: str) -> str:
    return value.replace("/", "").replace("\\", "").strip(".") or "file"


def index() -> IndexContents:
    """A library of two repositories, one of them measured."""
    entries = (
        IndexEntry(
            "user/corgi", ("<corgi>",), SD, Picture("pictures/corgi.png", "a <corgi>"), "A dog.", {"CLIP": 0.78}
        ),
        IndexEntry("user/pets", ("<cat>", "<dog>"), SD),
    )
    return IndexContents("My words", entries, "user/words", "All that I taught it.", License("mit"), "tool 1")


def dataset() -> DatasetContents:
    """The pictures of a word."""
    pictures = (Picture("train/01.png", "a dog on a sofa"), Picture("train/02.png", "a dog | in the snow"))
    return DatasetContents("Pictures of <corgi>", 5, "user/corgi-pictures", "<corgi>", "user/corgi", 5, 0, pictures)


EXAMPLES: dict[str, Contents] = {
    "corgi": corgi(),
    "sdxl": sdxl(),
    "several": several(),
    "bare": bare(),
    "nasty": nasty(),
    "index": index(),
    "dataset": dataset(),
}

if __name__ == "__main__":
    for name, contents in EXAMPLES.items():
        (FOLDER / f"{name}.md").write_bytes(Card.of(contents).markdown().encode("utf-8"))
