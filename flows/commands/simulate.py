"""`soulseek-research simulate`."""

import asyncio
import contextlib
from pathlib import Path

import click


@click.command(
    epilog="Example:  soulseek-research simulate --rate 100 --port 2242 --control /tmp/network.sock   "
    "and then, in another terminal:  echo 'fault kick username=eu' | nc -U /tmp/network.sock"
)
@click.option("--rate", type=click.FloatRange(min=0), default=50.0, show_default=True, help="Searches a second.")
@click.option("--unlimited", is_flag=True, help="As fast as the connections take it, instead of a rate.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same searches.")
@click.option("--branches", type=click.IntRange(1, 100), default=2, show_default=True, help="Branches of the tree.")
@click.option("--overlap", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share that all carry.")
@click.option(
    "--speed", type=click.FloatRange(min=0.001), default=1.0, show_default=True, help="Faster than the clock."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The server's port; a free one if left out.")
@click.option("--seconds", type=click.FloatRange(min=0), help="How long to run; until Ctrl-C if left out.")
@click.option("--control", type=click.Path(path_type=Path), help="Take commands on a unix socket here.")
@click.option("--manifest", type=click.Path(path_type=Path), help="Write what is sent to this file, as JSON lines.")
@click.option("--stdin", "use_stdin", is_flag=True, help="Take commands from standard input: try `help`.")
def simulate(
    rate: float,
    unlimited: bool,
    seed: int,
    branches: int,
    overlap: float,
    speed: float,
    port: int,
    seconds: float | None,
    control: Path | None,
    manifest: Path | None,
    use_stdin: bool,
) -> None:
    """Run a Soulseek network of invented people on this machine, with faults on command."""
    from soulseek_research.simulation import control as network  # noqa: PLC0415 - other commands need no aioslsk

    running = network.run(
        control_path=control,
        use_stdin=use_stdin,
        report=click.echo,
        seconds=seconds,
        rate=float("inf") if unlimited else rate,
        seed=seed,
        branches=branches,
        overlap=overlap,
        speed=speed,
        port=port,
        manifest_path=manifest,
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(running)
    except OSError as error:
        raise click.ClickException(f"the simulated network cannot be opened: {error.strerror or error}") from None
