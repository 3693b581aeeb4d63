"""Fuzz every parser of the protocol, guided by coverage: python tests/fuzz/parsers.py -max_total_time=600

Options are libFuzzer's. Whatever arrives, a parser returns what it stands for or the one error it is documented to raise;
anything else ends the run, and libFuzzer writes the message beside (see -artifact_prefix). Atheris is no part of the
development extra: pip install atheris
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
LONGEST = 1 << 16  # bytes of a message


def harness(folder: Path) -> tuple[dict[str, bytes], Callable[[bytes], None], Callable[[bytes, int, int], bytes]]:
    """Return real messages by name, what tries one message, and what makes another of it.

    The first byte of a message says which parser it is for.
    """
    sys.path[:0] = [place for place in (str(TESTS), str(TESTS / "pmfed" / "secagg")) if place not in sys.path]
    from test_parsers import parsers, spoil

    known = list(parsers(folder).values())

    def attempt(data: bytes) -> None:
        if not data:
            return
        _, parse, error = known[data[0] % len(known)]
        with suppress(error):
            if parse(data[1:]) is None:
                raise AssertionError("a parser returned nothing")

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        place = data[0] % len(known) if data else chance.randrange(len(known))
        whole = data[1:] if chance.random() < 0.9 else known[place][0]  # now and then from a real message again
        return bytes([place]) + spoil(whole, chance)[: longest - 1]

    messages = {name: bytes([k]) + one[0] for k, (name, one) in enumerate(parsers(folder).items())}
    return messages, attempt, mutate


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer is told to stop or something breaks."""
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed: pip install atheris (needs Linux, or clang's libFuzzer).")
    with tempfile.TemporaryDirectory() as folder:
        with atheris.instrument_imports(include=["pmfed", "pmfed_client.connection.channel"]):
            messages, attempt, mutate = harness(Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for name, message in messages.items():
            (corpus / name).write_bytes(message)

        def either(data: bytes, longest: int, seed: int) -> Any:
            return mutate(data, longest, seed) if seed % 2 else atheris.Mutate(data, longest)

        atheris.Setup([sys.argv[0], f"-max_len={LONGEST}", *arguments, str(corpus)], attempt, custom_mutator=either)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
