"""The demo, shortened: what it writes, what it prints, and whose folders it leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from textual_inversion_ext.cli.main import main


def test_demo_writes_picture_page_and_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    arguments = ["demo", "--concept", "latte", "--output_dir", str(folder), "--max_train_steps", "20"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for name in ("demo.png", "demo.html", "learned_embeds.safetensors"):
        assert str(folder / name) in printed
        assert (folder / name).is_file()
    assert "textual-inversion generate --concept" in printed
    sheet = Image.open(folder / "demo.png")
    assert sheet.width > 5 * 160
    assert sheet.height > 5 * 160
    page = (folder / "demo.html").read_text(encoding="utf-8")
    assert "&lt;latte&gt;" in page
    assert not re.search(r"(src|href)=.https?:", page)  # nothing is fetched from outside
    assert len(re.search(r'points="([^"]+)"', page)[1].split()) == 2  # 20 steps, one mean every 10
    assert main(arguments) == 0  # an earlier demo may be replaced


def test_demo_refuses_a_folder_of_somebody_elses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert precious.read_text() == "mine"
    page = tmp_path / "demo.html"
    page.write_text("an earlier demo")
    assert main(["demo", "--output_dir", str(tmp_path), "--max_train_steps", "0"]) == 1
    assert "max_train_steps" in capsys.readouterr().err
    assert page.read_text() == "an earlier demo" and not (tmp_path / "pictures").exists()
    assert main(["demo", "--concept", "nobody"]) == 1
    assert "mochi" in capsys.readouterr().err
