"""What every test runs under: no network, few threads, and the real CLIP vocabulary for whoever asks."""

from __future__ import annotations

import os

# Before anything imports a Hugging Face library or torch: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Sums come out the same on machines of different size and in the processes that tests start, whatever the shell says;
# networks as tiny as these gain nothing from more threads.
os.environ["OMP_NUM_THREADS"] = "1"

import gzip
import importlib.util
import ipaddress
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket's path
        return True
    try:
        return address[0] == "localhost" or ipaddress.ip_address(address[0]).is_loopback
    except ValueError:  # a host name
        return address[0] == socket.gethostname()


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Fail a test at its first connection to another machine; servers of this one may be used."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise RuntimeError(f"a test tried to reach {address}; tests use this machine alone")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_connect)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_arrives() -> None:
    """Take Ctrl-C as at a terminal: what a shell starts in the background ignores it, and hands that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary (49,408 entries) and merges of the tokenizer of CLIP and Stable Diffusion 1.x.

    They are read from the one text file that the package `open_clip_torch` ships. The package is not imported: it
    needs torchvision, which the Makefile does not install.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        pytest.fail("open_clip_torch is missing; install it with: pip install --no-deps open_clip_torch")
    file = Path(package.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    # The slice is OpenAI's: a header line, then the merges that 49,408 entries leave room for.
    # Source: https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    letters = _byte_letters()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: number for number, piece in enumerate(pieces)}, merges


@pytest.fixture
def clip_tokenizer(clip_vocabulary: tuple[dict[str, int], list[tuple[str, str]]]) -> CLIPTokenizer:
    """A fresh tokenizer of Stable Diffusion 1.x: the real vocabulary, 77 tokens long."""
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_vocabulary
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _byte_letters() -> list[str]:
    """The 256 printable letters by which byte-level BPE writes bytes, in the order of CLIP's vocabulary.

    Source: `bytes_to_unicode` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(number) for number in printable] + [chr(256 + number) for number in range(others)]
