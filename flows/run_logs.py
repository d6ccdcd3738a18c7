"""What the other rooms say, shown in the Prefect UI with the run that made them say it."""

import contextlib
import logging
from collections.abc import Iterator

from prefect.logging.handlers import APILogHandler


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Show in the Prefect UI what is warned of; of itself Prefect shows what is said to its own loggers."""
    shown = APILogHandler(level=logging.WARNING)
    loggers = [logging.getLogger(room) for room in ("collectors", "soulseek_research")]
    for logger in loggers:
        logger.addHandler(shown)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(shown)
