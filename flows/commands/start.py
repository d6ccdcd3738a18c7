"""`soulseek-research start`."""

import asyncio
import signal

import click

from collectors import logs
from collectors.settings import CollectorSettings
from flows import options


@click.command(
    epilog="Example:  soulseek-research start --username U --password-file soulseek.password --client-id eu   "
    "(without a database URL, into the embedded PostgreSQL)"
)
@options.from_settings(CollectorSettings)
def start(settings: CollectorSettings) -> None:
    """Listen at one place until Ctrl-C or SIGTERM, and keep every search that is heard.

    Every flag is also an environment variable, and a line in `.env`.
    """
    logs.configure(settings.log_level)
    asyncio.run(_start(settings))


async def _start(settings: CollectorSettings) -> None:
    from collectors import collector  # noqa: PLC0415 - `--help` needs no aioslsk

    listening = collector.Collector(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, listening.stop)
    await listening.run()
