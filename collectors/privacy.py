"""No raw name leaves the process by way of a log.

aioslsk logs whole messages, raw frames, usernames and queries, and its exceptions hold them too; asyncio prints what a
task held and with what a callback was called. So every record of theirs is rewritten where it is made, before any
handler sees it: what remains is the place in the code and the type of the exception.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

TALKATIVE: Final = ("aioslsk", "asyncio", "async_upnp_client")

_log = logging.getLogger(__name__)
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"taskName"}


def describe(error: BaseException) -> str:
    """What may be said of an exception that came out of aioslsk: its type. Its text can hold names and messages."""
    return type(error).__name__


def whereabouts(error: BaseException) -> str:
    """The place in the code where an exception was raised, which names nobody."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "unknown place"


class Scrub(logging.Filter):
    """Leaves of a record the place in the code, the level and the types of exceptions."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record; lets it pass, always."""
        candidates = [*(record.exc_info or ()), *(record.args if isinstance(record.args, tuple) else ())]
        errors = (describe(one) for one in candidates if isinstance(one, BaseException))
        record.msg = " ".join((f"{record.name}.{record.funcName}:{record.lineno}", *errors))
        record.args = None
        record.exc_info = record.exc_text = record.stack_info = None
        for name in record.__dict__.keys() - _PLAIN:  # what came as `extra`
            del record.__dict__[name]
        if hasattr(record, "taskName"):
            record.taskName = None  # aioslsk writes usernames into the names of its tasks
        return True


SCRUB: Final = Scrub()


def is_talkative(name: str) -> bool:
    """Whether a logger of this name may say what it must not."""
    return name.partition(".")[0] in TALKATIVE


def install(*, debug: bool = False) -> None:
    """Makes the loggers of aioslsk and asyncio safe. May be called again.

    Args:
        debug: let them say where they are at every step. Otherwise they speak of errors only: scrubbed, a warning that
            some peer could not be reached tells nobody anything.
    """
    for package in TALKATIVE:
        _import_all(package)
    for name in list(logging.root.manager.loggerDict):
        if is_talkative(name):
            logging.getLogger(name).addFilter(SCRUB)
    for package in TALKATIVE:
        logger = logging.getLogger(package)
        logger.addFilter(SCRUB)
        logger.setLevel(logging.DEBUG if debug else logging.ERROR)
    if not isinstance(logging.getLogRecordFactory(), _Factory):
        logging.setLogRecordFactory(_Factory(logging.getLogRecordFactory()))
    sys.unraisablehook = _on_unraisable


def _import_all(package: str) -> None:
    """Lets a package make all the loggers that it will ever make."""
    if package != "aioslsk":  # the others make theirs when they are imported, or are seen by the factory
        return
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}."):
        importlib.import_module(found.name)


class _Factory:
    """A record factory that sees a talkative logger's first record before its filters do, and adds ours."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        if is_talkative(name):
            logging.getLogger(name).addFilter(SCRUB)  # once: a filter is not added twice
        record: logging.LogRecord = self._make(name, *args, **kwargs)
        return record


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Makes the loop report what nobody caught by its type only.

    To be called after aioslsk's `start()`, which sets a handler of its own.
    """
    loop.set_exception_handler(_on_loop_exception)


def _on_loop_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    # The message can hold the arguments of a callback, and a task's repr all that it was made of.
    where = next((kind for kind in ("task", "future", "handle", "transport") if kind in context), "loop")
    what = "none" if error is None else f"{describe(error)} at {whereabouts(error)}"
    _log.error("Nobody caught an exception (%s): %s", where, what)


def _on_unraisable(unraisable: UnraisableHookArgs) -> None:
    _log.error("An exception could not be raised: %s", getattr(unraisable.exc_type, "__name__", "unknown"))
