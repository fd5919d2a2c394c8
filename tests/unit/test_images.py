"""One picture, every way cameras, browsers and accidents deliver it. All files are made here."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from textual_inversion_ext.data.pictures.decoding import readable_extensions
from textual_inversion_ext.data.pictures.images import open_image
from textual_inversion_ext.errors import ImageError


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters(width: int = 24, height: int = 16) -> Image.Image:
    """Red, green / blue, white: tells every rotation and mirroring apart."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def close(image: Image.Image, expected: Image.Image, tolerance: int = 40) -> bool:
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int))
    # The mean, because JPEG rings along the edges.
    return image.size == expected.size and float(difference.mean()) < tolerance / 4


# What the stored picture must be for the given tag to make it upright: the inverse of each turn.
STORED = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", STORED)
def test_exif_rotation_is_applied(tag: int, kind: str, tmp_path: Path) -> None:
    stored = quarters()
    for turn in STORED[tag]:
        stored = stored.transpose(turn)
    file = tmp_path / "photo"
    file.write_bytes(encoded(stored, kind, exif=orientation(tag), **({"quality": 95} if kind != "TIFF" else {})))
    assert close(open_image(file), quarters())


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_passed_over(tag: int) -> None:
    assert close(open_image(encoded(quarters(), "JPEG", exif=orientation(tag))), quarters())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_picture() -> None:
    content = encoded(quarters(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert close(open_image(content), quarters())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
def test_every_format_reads_as_upright_rgb(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "no-ending"
    file.write_bytes(encoded(quarters(), kind))
    image = open_image(file)
    assert image.mode == "RGB" and close(image, quarters())


def test_transparency_is_laid_on_white() -> None:
    rgba = quarters().convert("RGBA")
    rgba.putalpha(
        Image.fromarray(np.repeat(np.array([[255], [128], [0], [0]], np.uint8), 24, axis=1).repeat(4, axis=0))
    )
    image = open_image(encoded(rgba, "PNG"))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((0, 5)) == (255, 127, 127)
    assert image.getpixel((0, 12)) == (255, 255, 255)


def test_grey_with_alpha_is_laid_on_white() -> None:
    image = open_image(encoded(Image.new("LA", (4, 4), (10, 0)), "PNG"))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert open_image(Image.new("LA", (4, 4), (10, 255))).getpixel((0, 0)) == (10, 10, 10)


def test_rarer_modes_with_alpha_are_opaque_afterwards() -> None:
    clear = Image.new("RGBA", (4, 4), (80, 80, 80, 0))
    palette = Image.new("P", (4, 4))
    palette.putalpha(0)
    sources = [clear.convert("LA").convert("La"), clear.convert("RGBa"), palette]
    assert [source.mode for source in sources] == ["La", "RGBa", "PA"]
    for image in map(open_image, sources):
        assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_transparent_entry() -> None:
    palette = Image.new("P", (4, 2), 0)
    palette.putpalette([200, 10, 10, 10, 10, 200])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        image = open_image(encoded(palette, kind, transparency=0))
        assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 0)) == (10, 10, 200)


def test_a_palette_without_transparency_keeps_its_colours() -> None:
    assert close(open_image(encoded(quarters().convert("P"), "PNG")), quarters())


def test_one_bit_pictures_are_black_and_white() -> None:
    image = open_image(encoded(Image.fromarray(np.array([[True, False]])), "PNG"))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 256, 32768, 65535]], dtype=np.uint16)
    image = open_image(encoded(Image.fromarray(values), kind))
    assert [image.getpixel((x, 0)) for x in range(5)] == [(v, v, v) for v in (0, 0, 1, 128, 255)]


def test_the_transparent_value_of_sixteen_bit_grey_becomes_white() -> None:
    values = Image.fromarray(np.array([[300, 301, 60000]], dtype=np.uint16))
    image = open_image(encoded(values, "PNG", transparency=300))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [255, 1, 233]


def test_sixteen_bit_pgm_is_scaled() -> None:
    content = b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32768)
    assert open_image(content).getpixel((1, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="scan.tif.*range is not known"):
        open_image(encoded(Image.new(mode, (2, 2), 100_000), "TIFF"), name="scan.tif")


def swapped_profile() -> bytes:
    """An RGB profile whose red is sRGB's green and the reverse: using it or not is plain to see."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))
    return profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def cmyk_profile() -> bytes:
    """A printer whose cyan ink is mid grey. Source: ICC.1:2001-04, 6.5.8 "lut8Type"."""
    ramp = bytes(range(256))
    table = b"".join(bytes([0 if ink & 7 else 128 if ink & 8 else 255, 128, 128]) for ink in range(16))
    matrix = struct.pack(">9i", *(65536 if cell % 4 == 0 else 0 for cell in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + table + ramp * 3
    text = b"Grey ink\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(12 + 67)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    bodies = [(b"A2B0", lut), (b"desc", description), (b"wtpt", white)]
    bodies = [(name, body + bytes(-len(body) % 4)) for name, body in bodies]
    offset, entries = 128 + 4 + 12 * len(bodies), b""
    for name, body in bodies:
        entries += name + struct.pack(">2I", offset, len(body))
        offset += len(body)
    header = struct.pack(">I", offset) + bytes(4) + bytes([2, 0x20, 0, 0]) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + entries + b"".join(b for _, b in bodies)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_rgb_profile_is_converted_to_srgb(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(encoded(Image.new("RGB", (4, 4), (255, 0, 0)), kind, icc_profile=swapped_profile(), **options))
    red, green, blue = image.getpixel((0, 0))
    assert green > 250 and red < 5 and blue < 5


def test_a_profile_is_used_for_the_colours_under_transparency() -> None:
    image = open_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG", icc_profile=swapped_profile()))
    assert image.getpixel((0, 0)) == pytest.approx((127, 255, 127), abs=3)


def test_an_srgb_profile_changes_no_pixel() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_image(encoded(noise, "PNG", icc_profile=profile)).tobytes() == noise.tobytes()


@pytest.mark.parametrize("profile", [b"no profile at all", swapped_profile()[:300], cmyk_profile()])
def test_a_profile_that_does_not_fit_is_passed_over(profile: bytes) -> None:
    assert close(open_image(encoded(quarters(), "PNG", icc_profile=profile)), quarters(), 1)


def test_cmyk_is_converted_with_and_without_a_profile() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert open_image(encoded(cyan, "JPEG", quality=100)).getpixel((4, 4)) == pytest.approx((0, 255, 255), abs=3)
    red, green, blue = open_image(encoded(cyan, "TIFF", icc_profile=cmyk_profile())).getpixel((4, 4))
    assert red == pytest.approx(green, abs=3) and green == pytest.approx(blue, abs=3) and 60 < red < 200


def frames(kind: str) -> bytes:
    shades = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100, 200)]
    return encoded(shades[0], kind, save_all=True, append_images=shades[1:])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused_with_the_way_to_take_one(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "moving"
    file.write_bytes(frames(kind))
    with pytest.raises(ImageError, match=r"moving has several frames .*seek"):
        open_image(file)
    with Image.open(file) as opened:
        opened.seek(1)
        one = open_image(opened.copy())
    assert one.getpixel((0, 0))[0] == pytest.approx(100, abs=5)


def test_the_photograph_of_a_camera_with_two_lenses_is_its_first_frame() -> None:
    left, right = quarters(64, 64), Image.new("RGB", (64, 64))
    content = encoded(left, "MPO", save_all=True, append_images=[right], quality=95)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames") == 2  # noqa: B009
    assert close(open_image(content), left)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_name_themselves(kind: str, share: float, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    file = tmp_path / "cut.img"
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"cut\.img"):
        open_image(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore")  # Pillow's own, about what it meets in there
def test_damaged_files_give_a_picture_or_our_error_and_nothing_else(kind: str) -> None:
    chance = random.Random(7)
    sound = bytearray(
        encoded(quarters(), kind, exif=orientation(6)) if kind in ("JPEG", "TIFF") else encoded(quarters(), kind)
    )
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
        try:
            assert open_image(bytes(damaged)).mode == "RGB"
        except ImageError as error:
            assert "picture in memory" in str(error)


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2_000_000_000, 1_000_000_000), (200_000_000, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(*size))
    with pytest.raises(ImageError, match=r"bomb\.png"):
        open_image(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "zero bytes"),
        (b"hello", "no picture that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no picture that can be read"),
    ],
)
def test_files_that_are_no_pictures(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=says) as caught:
        open_image(file)
    assert str(file) in str(caught.value)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    for path, says in [
        ("missing.png", "No such file"),
        ("dangling.png", "No such file"),
        (".", "a folder"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(ImageError, match=says):
            open_image(tmp_path / path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on Unix only")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="no ordinary file"):
        open_image(tmp_path / "pipe.png")


def test_the_name_given_is_the_name_in_the_message() -> None:
    with pytest.raises(ImageError, match="^row 3"):
        open_image(b"", name="row 3")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_picture_in_memory_is_never_shared_or_changed(mode: str) -> None:
    source = quarters().convert(mode)
    before = source.tobytes()
    result = open_image(source)
    result.paste((1, 2, 3), (0, 0, 24, 16))
    assert result is not source and source.tobytes() == before and source.mode == mode


def test_a_closed_picture_is_an_image_error(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    opened = Image.open(tmp_path / "a.png")
    opened.close()
    with pytest.raises(ImageError, match=r"a\.png"):
        open_image(opened)


def test_pictures_without_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="0x4"):
        open_image(Image.new("RGB", (0, 4)))


def test_common_endings_are_read() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= set(readable_extensions())


def test_opening_pictures_needs_no_torch() -> None:
    code = "import sys, textual_inversion_ext.data.sources.collect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
