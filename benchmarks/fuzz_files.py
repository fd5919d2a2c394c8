"""How many damaged embedding files make the reader raise anything but its own error, or do anything but read.

    python -m benchmarks.fuzz_files                     # 100,000 files
    python -m benchmarks.fuzz_files --count 2000 --seed 7

Sound files of every kind are changed at random (bytes flipped, cut, repeated, spliced with another file, replaced by
hostile ones; inside of zip archives and PNG chunks too, with checksums made right again) and read. An escape is any
exception but `EmbeddingFileError`, a concept with rows that are not finite, a file that appeared, an attempt to start a
program or to connect (a Python audit hook watches), or a read that took more than ten seconds. Each escape is kept with
its description, so that it can become a test.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import logging
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn
from tqdm import tqdm

from textual_inversion_ext import EmbeddingFileError, LearnedConcept
from textual_inversion_ext.files import TARGETS, load_concepts, save_concept
from textual_inversion_ext.files.containers import safetensors_bytes

logger = logging.getLogger(__name__)

ROWS = torch.linspace(-1, 1, 12).reshape(2, 6)
SLOW_SECONDS = 10.0
# What reading a file never does. `open` for writing is judged by the folder's content instead.
FORBIDDEN = tuple(
    "subprocess. os.system os.exec os.posix_spawn os.fork os.remove os.rename os.mkdir os.rmdir socket.connect shutil."
    " ctypes.dlopen pty.spawn".split()
)
HOSTILE = [
    b"\xff" * 8,
    b"\x00" * 8,
    b"\x7f" * 4,
    b"9" * 12,
    b"-1",
    b"NaN",
    b"[" * 40,
    b"\x80\x02",
    b"c__builtin__\neval\n",
]
HOSTILE += [b"cposix\nsystem\n(S'true'\ntR", b"PK\x05\x06", b'"F8_E4M3"', b"\xed\xa0\x80", b"bundle_emb.", b"../../"]
NAMES = [
    "",
    "<a>",
    "a",
    "emb_params",
    "emp_params",
    "emp_params_out",
    "clip_l",
    "clip_g",
    "t5",
    "t5xxl",
    "t5_out",
    "llama",
]
NAMES += [
    "string_to_param",
    "string_to_param.*",
    "string_to_token",
    "name",
    "step",
    "encoder",
    "token",
    "library_version",
]
NAMES += ["bundle_emb.a.clip_l", "bundle_emb.a.b", "text_encoders_0", "text_encoders_1", "unet:0:up", "<s1>", "<embed>"]
NAMES += ["IN01", "MID", "0", "0.clip_l", "optimizer_state_dict", "a/../b", "\ud800", "\n", "x" * 300]


class Watch:
    """Notes what Python reports while it is on: programs started, files removed, connections."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Python's own hook; it must be fast."""
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {arguments!r}"[:200])


def sound_files(folder: Path) -> list[tuple[str, bytes]]:
    """A file of every kind that is read, as (ending, content)."""
    concept = LearnedConcept("<a>", {"clip_l": ROWS, "clip_g": ROWS + 1}, {"steps": "500", "base_model": "x"})
    for target in TARGETS:
        save_concept(concept, folder / target, target)
        save_concept(LearnedConcept("<b>", {"clip_l": ROWS}), folder / f"{target}1", target)
    layouts: dict[str, dict[str, torch.Tensor]] = {
        "bundle": {"bundle_emb.a.string_to_param.*": ROWS, "bundle_emb.b.clip_l": ROWS + 1, "lora": ROWS + 2},
        "cog": {"text_encoders_0": ROWS, "text_encoders_1": ROWS + 1},
        "simo": {"<s1>": ROWS[0].clone(), "<s2>": ROWS[1].clone(), "unet:0:up": ROWS},
        "outputs": {"clip_l": ROWS, "t5_out": ROWS + 1, "llama": ROWS + 2},
        "xti": {"IN01": ROWS, "MID": ROWS + 1},
    }
    for name, tensors in layouts.items():
        (folder / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors, {"name": "x", "<s1>": "<embed>"}))
    values: dict[str, object] = {
        "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "x", "step": 5},
        "first": {"string_to_param": nn.ParameterDict({"x": nn.Parameter(ROWS)})},
        "list": [{"clip_l": ROWS, "clip_g": ROWS}],
        "bare": ROWS.half(),
        "plain": {"<a>": ROWS.bfloat16()},
    }
    for name, value in values.items():
        torch.save(value, folder / f"{name}.pt")
    torch.save(values["a1111"], folder / "legacy.pt", _use_new_zipfile_serialization=False)
    text = json.dumps({"string_to_param": {"*": {"TORCHTENSOR": ROWS.tolist()}}, "name": "x"})
    (folder / "picture.png").write_bytes(picture_of(text.encode()))
    return [(file.suffix, file.read_bytes()) for file in sorted(folder.rglob("*.*")) if file.is_file()]


def picture_of(text: bytes) -> bytes:
    """A picture whose text chunk holds this."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("sd-ti-embedding", base64.b64encode(text).decode())
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def flipped(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Change a few bytes."""
    for _i in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return content


def cut(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Lose the end."""
    return content[: chance.randrange(len(content))]


def repeated(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Have a piece twice."""
    first, last = sorted(chance.randrange(len(content)) for _i in range(2))
    return content[:last] + content[first:]


def spliced(content: bytearray, chance: random.Random, other: bytes) -> bytearray:
    """Go on as another file."""
    return content[: chance.randrange(len(content))] + other[chance.randrange(len(other)) :]


def poisoned(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Have something hostile in place of the same number of bytes, or pushed in between."""
    piece, place = chance.choice(HOSTILE), chance.randrange(len(content))
    return content[:place] + piece + content[place + (len(piece) if chance.random() < 0.7 else 0) :]


def renumbered(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Have another digit wherever there is one: shapes, offsets, lengths in text."""
    places = [place for place, byte in enumerate(content[:4096]) if 48 <= byte <= 57]
    for place in chance.sample(places, min(len(places), chance.randint(1, 4))):
        content[place] = chance.randrange(48, 58)
    return content


def inside(content: bytearray, chance: random.Random, other: bytes) -> bytearray:
    """Change what a checksum protects, and make the checksum right: a pickle in its archive, the text of a picture."""
    change = chance.choice([flipped, flipped, repeated, poisoned, renumbered])
    try:
        if content.startswith(b"PK"):
            packed = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(packed, "w") as target:
                for entry in source.infolist():
                    data = bytearray(source.read(entry))
                    is_pickle = entry.filename.endswith("data.pkl")
                    target.writestr(entry.filename, bytes(change(data, chance, other)) if is_pickle else bytes(data))
            return bytearray(packed.getvalue())
        if content.startswith(b"\x89PNG"):
            with Image.open(io.BytesIO(content)) as picture:
                text = bytearray(base64.b64decode(picture.info["sd-ti-embedding"]))
            return bytearray(picture_of(bytes(change(text, chance, other))))
    # An earlier change has damaged it already; then zip, zlib and PNG readers fail with nearly any exception.
    except Exception as error:
        logger.debug("not opened: %s", error)
    return change(content, chance, other)


def invented(content: bytearray, chance: random.Random, _: bytes) -> bytearray:
    """Be a sound container of another content: names that formats look for, on tensors and texts of any kind."""
    tensors = {chance.choice(NAMES): any_tensor(chance) for _i in range(chance.choice([1, 1, 1, 2, 2, 3]))}
    texts = {chance.choice(NAMES): chance.choice(NAMES) for _i in range(chance.randint(0, 4))}
    if content[8:9] == b"{":
        stored = {_utf8(key): tensor.contiguous() for key, tensor in tensors.items() if tensor.numel() < 10**5}
        texts = {_utf8(key): _utf8(text) for key, text in {"format": "pt", **texts}.items()}
        return bytearray(safetensors_bytes(stored, texts))
    value: object = {**texts, **tensors}
    for _i in range(chance.choice([0, 0, 1, 2])):
        value = chance.choice([{chance.choice(NAMES): value}, [value, any_tensor(chance)], [value, value]])
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=chance.random() < 0.7)
    return bytearray(file.getvalue())


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def any_tensor(chance: random.Random) -> torch.Tensor:
    """A tensor of any number of dimensions and type, some of them far larger than what is stored."""
    shape = [chance.choice([0, 1, 1, 2, 3, 6]) for _i in range(chance.choice([0, 1, 2, 2, 2, 3]))]
    dtype = chance.choice(
        [torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
    )
    tensor = torch.full(shape, chance.choice([0.0, 1.0, 1.0, -0.5, -0.5, 1e30, float("nan"), float("inf")])).to(dtype)
    return tensor[..., :1].expand(*shape[:-1], 10**6) if chance.random() < 0.05 and shape and shape[-1] else tensor


CHANGES: list[Callable[[bytearray, random.Random, bytes], bytearray]] = [
    flipped,
    cut,
    repeated,
    spliced,
    poisoned,
    renumbered,
    inside,
    inside,
    invented,
    invented,
]


def outcome_of(file: Path) -> tuple[str, str]:
    """Read a file: ("read" | "refused" | "escape", the trace of an escape)."""
    started = time.monotonic()
    try:
        concepts = load_concepts(file)
    except EmbeddingFileError:
        result = "refused", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "escape", traceback.format_exc()
    else:
        finite = all(bool(rows.isfinite().all()) for concept in concepts for rows in concept.vectors.values())
        result = ("read", "") if finite else ("escape", "rows that are not finite")
    return ("escape", "too slow") if time.monotonic() - started > SLOW_SECONDS else result


def main() -> None:
    """Fuzz, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="Files to read. Default: 100000.")
    parser.add_argument("--seed", type=int, default=0, help="Which files. Default: 0.")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-escapes"), help="Folder for files that escape.")
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # what is left out of a file is not the question here
    torch.set_num_threads(1)
    chance, counts, watch = random.Random(flags.seed), Counter[str](), Watch()
    with tempfile.TemporaryDirectory() as place:
        Path(place, "sound").mkdir()
        sound = sound_files(Path(place, "sound"))
        room = Path(place, "room")
        room.mkdir()
        for number in tqdm(range(flags.count), unit="file", mininterval=1):
            ending, content = chance.choice(sound)
            damaged = bytearray(content)
            for change in chance.choices(CHANGES, k=chance.choice([1, 1, 1, 2, 3])):
                damaged = change(damaged or bytearray(b"\0"), chance, chance.choice(sound)[1])
            file = room / f"a{ending}"
            file.write_bytes(damaged)
            watch.on, watch.seen = True, []
            result, trace = outcome_of(file)
            watch.on = False
            if watch.seen:
                result, trace = "escape", "; ".join(watch.seen)
            if [entry.name for entry in room.iterdir()] != [file.name] or file.read_bytes() != damaged:
                result, trace = "escape", "the folder or the file was changed"
            counts[result] += 1
            if result == "escape":
                flags.keep.mkdir(exist_ok=True)
                name = f"{number}-{hashlib.sha256(damaged).hexdigest()[:8]}"
                (flags.keep / f"{name}{ending}").write_bytes(damaged)
                (flags.keep / f"{name}.txt").write_text(trace)
            file.unlink(missing_ok=True)
    print(f"{flags.count} files: {counts['refused']} refused, {counts['read']} read, {counts['escape']} escapes")
    if counts["escape"]:
        sys.exit(f"the files and what happened are in {flags.keep}")


if __name__ == "__main__":
    main()
