import asyncio
import hashlib
import threading
import time
from pathlib import Path

import pytest

from soulseek_research.storage.archive import fingerprint
from soulseek_research.storage.archive.folder import Folder


def test_it_is_what_everybody_computes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    archive = Folder(tmp_path)
    archive.write("a.json", data)
    seen: list[int] = []
    assert fingerprint.sha256(archive, "a.json", seen.append) == hashlib.sha256(data).hexdigest()
    assert seen == [*range(2**20, len(data), 2**20), len(data)]


async def test_the_loop_goes_on_and_hears_of_it() -> None:
    seen: list[int] = []

    def read(tell: fingerprint.Seen) -> str:
        for count in range(40):
            time.sleep(0.02)
            tell(count)
        return "done"

    ticks = 0
    reading = asyncio.create_task(fingerprint.beside(read, seen.append))
    while not reading.done():
        ticks += 1
        await asyncio.sleep(0.01)
    assert reading.result() == "done"
    assert ticks > 5
    assert 1 <= len(seen) <= 2


async def test_cancelled_it_ends_within_a_piece() -> None:
    began, ended = threading.Event(), threading.Event()

    def read(tell: fingerprint.Seen) -> None:
        try:
            while True:
                began.set()
                time.sleep(0.01)
                tell(1)
        finally:
            ended.set()

    reading = asyncio.create_task(fingerprint.beside(read, lambda _: None))
    await asyncio.to_thread(began.wait)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended.is_set()


async def test_what_goes_wrong_is_told() -> None:
    def read(_: fingerprint.Seen) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await fingerprint.beside(read, lambda _: None)
