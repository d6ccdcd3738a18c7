"""Work that is seen through, however often whoever waits for it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def seen_through(work: Coroutine[Any, Any, Result]) -> Result:
    """Do it to its end; a cancellation that came meanwhile is raised after it.

    Raises:
        asyncio.CancelledError: this was cancelled, and the work is done.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
