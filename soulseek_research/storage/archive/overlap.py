"""Blocking work in threads beside the event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Entered = TypeVar("Entered")


class Beside:
    """Runs blocking calls, each after the one before it. Whoever gives the next one waits for the last."""

    def __init__(self) -> None:
        self._call: asyncio.Task[Any] | None = None

    async def start(self, function: Callable[..., object], *arguments: Any) -> None:
        """Wait for the call under way, then begin this one.

        Raises:
            Whatever the call before it raised.
        """
        await self.finish()
        self._call = asyncio.create_task(asyncio.to_thread(function, *arguments))

    async def finish(self) -> Any:
        """Wait for the call under way; returns what it returned, or None when there is none.

        Raises:
            Whatever it raised.
        """
        if self._call is None:
            return None
        # A thread cannot be cancelled: whoever gives up leaves the call to `beside`, which waits for it.
        result = await asyncio.shield(self._call)
        self._call = None
        return result

    async def end(self) -> None:
        """Wait until nothing runs any more, whatever became of it."""
        if self._call is not None:
            with contextlib.suppress(Exception):
                await self._call


@contextlib.asynccontextmanager
async def beside() -> AsyncIterator[Beside]:
    """A `Beside` of which nothing runs any more when the context has ended, however it ended."""
    calls = Beside()
    try:
        yield calls
        await calls.finish()
    finally:
        await calls.end()


@contextlib.asynccontextmanager
async def entered(context: AbstractContextManager[Entered]) -> AsyncIterator[Entered]:
    """A context whose beginning and end block, each in a thread."""
    value = await asyncio.to_thread(context.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(context.__exit__, None, None, None)
