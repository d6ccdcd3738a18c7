"""How a run of the archive flow ends."""

from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows import archive
from flows.archive import Outcome
from soulseek_research.storage.archive.month import Month

SEPTEMBER, OCTOBER = Month(2026, 9), Month(2026, 10)
ARCHIVED = Outcome(SEPTEMBER)
WAITING = Outcome(OCTOBER, waiting="2026-10 waits for what a collector still holds: eu")
FAILED = Outcome(OCTOBER, failed="/srv/archives is full")


@pytest.mark.parametrize(
    ("outcomes", "kind", "name", "message"),
    [
        ([], "COMPLETED", "Completed", "No month is due."),
        ([WAITING], "COMPLETED", "Waiting", WAITING.waiting),
        (
            [ARCHIVED, WAITING],
            "COMPLETED",
            "Completed",
            f"2026-09: nothing of it is in the database that is not archived\n{WAITING.waiting}",
        ),
        (
            [ARCHIVED, FAILED],
            "FAILED",
            "Failed",
            "2026-10: /srv/archives is full\n2026-09: nothing of it is in the database that is not archived",
        ),
    ],
)
def test_it_says_what_became_of_each_month(outcomes: list[Outcome], kind: str, name: str, message: str) -> None:
    state: State[Any] = archive._conclusion(outcomes)
    assert (state.type.value, state.name, state.message) == (kind, name, message)
