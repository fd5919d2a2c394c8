"""Seeds of independent uses of randomness."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, token: str, purpose: str, counter: int) -> int:
    """Seed of one use of randomness, unrelated to every other.

    Args:
        seed: the run's seed.
        token: placeholder token of the concept.
        purpose: what is drawn.
        counter: step, chunk or picture number.

    Returns:
        An integer in [0, 2**63).
    """
    key = f"{seed}\0{token}\0{purpose}\0{counter}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
