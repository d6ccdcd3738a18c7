"""What has to be seen to now and then while a collector listens: key epochs to come, partitions for months to come."""

import asyncio
import contextlib
import logging
import time

from asyncpg import exceptions

from collectors import epochs, privacy
from collectors.flush import Flusher
from collectors.keys import KeyRingError
from collectors.pseudonym import Epoch, Pseudonymiser
from collectors.spool import SpoolError
from soulseek_research.storage.database import Role
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.location import Location

_log = logging.getLogger(__name__)

ASK_SECONDS = 300.0
ANSWER_SECONDS = 30.0
KEY_CHECK_SECONDS = 5.0


class Housekeeping:
    """Keeps a pseudonymiser up to date with the database's key epochs and the keys of this machine.

    Attributes:
        warning: what somebody should do soon, or None.
    """

    def __init__(self, database: Location, pseudonym: Pseudonymiser, flusher: Flusher, known: list[Epoch]) -> None:
        self.warning: str | None = None
        self._database = database
        self._pseudonym = pseudonym
        self._flusher = flusher
        self._known = known

    async def run(self) -> None:
        """Go on until cancelled.

        Raises:
            MissingKey: an epoch has begun whose key is not here. There is no fallback.
        """
        asked_at = time.monotonic()
        while True:
            if time.monotonic() - asked_at >= ASK_SECONDS:
                await self._ask()
                asked_at = time.monotonic()
            self._look_for_keys()
            await asyncio.sleep(KEY_CHECK_SECONDS)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._database.session(Role.COLLECTOR) as connection:
                await connection.execute("SELECT ensure_partitions_ahead()")
                known = await epochs.known(connection)
        except (StorageError, exceptions.PostgresError, TimeoutError) as error:
            # The writer tells what is wrong with the database.
            _log.debug("the database was not asked for key epochs: %s", privacy.describe(error))
            return
        if known != self._known:
            self._known = known
            self._refresh()
            with contextlib.suppress(SpoolError):  # needed only for a start without the database
                await self._flusher.with_spool(epochs.remember, known)

    def _look_for_keys(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        if self._pseudonym.next_missing(now_ms):
            self._refresh()  # it may have been brought since
        self._pseudonym.require_key(now_ms)
        missing = self._pseudonym.next_missing(now_ms)
        warning = f"the key {missing.key_id} counts soon and is not here" if missing else None
        if warning and warning != self.warning:
            _log.warning("%s: bring it with `soulseek-research key import`", warning)
        self.warning = warning

    def _refresh(self) -> None:
        try:
            self._pseudonym.refresh(self._known)
        except KeyRingError as error:
            # What was known stays in force: a file that somebody drops into the key folder stops nothing.
            _log.warning("%s", error)
