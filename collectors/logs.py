"""What a collector says on stderr: a line a minute, and one for each change of state."""

import logging
import time

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def configure(level: str) -> None:
    """Send our own loggers to stderr from `level` on, in UTC. Other libraries speak from WARNING on.

    Names of people cannot get in: see `collectors/privacy.py`, which is installed first.
    """
    formatter = logging.Formatter(FORMAT, datefmt="%Y-%m-%d %H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("collectors", "soulseek_research"):
        logging.getLogger(ours).setLevel(level)
