"""A program that a test runs beside itself."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, seconds: float = 30.0) -> Value:
    """Waits until a condition holds and returns its value.

    Raises:
        TimeoutError: it did not hold in time; the text says what did not happen.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


class Program:
    """A process, with all that it says in a file; it ends with the block."""

    def __init__(self, command: Sequence[str | Path], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        """Everything so far, with what an earlier program said to the same file."""
        return self.log.read_text(errors="replace")

    def says(self, words: str, times: int = 1, seconds: float = 30.0) -> None:
        """Waits until it has said something, so many times in all."""
        what = f"{words!r} {times} times in {self.log.name}"
        until(lambda: self.said().count(words) >= times or self._is_gone(), what, seconds)

    def stop(self, seconds: float = 30.0) -> int:
        """Ends it gently and returns its exit code; if it takes longer it is killed, and that is an error."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> float:
        """Ends it with SIGKILL and returns when (Unix seconds)."""
        moment = time.time()
        self._process.kill()
        self._process.wait()
        return moment

    def _is_gone(self) -> bool:
        if self.ended:
            raise RuntimeError(f"it ended with {self._process.returncode}: {self.said()[-2000:]}")
        return False
