"""The collector's clock against the database's: with many collectors, whose clock says what matters."""

import ctypes
import dataclasses
import sys
import time

from asyncpg import Connection

ROUND_TRIPS = 3
# From <sys/timex.h>: the kernel's own word on whether anything (ntpd, chrony, the hypervisor) keeps the clock in step.
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


@dataclasses.dataclass(frozen=True, slots=True)
class ClockReading:
    """One comparison.

    Attributes:
        offset_ms: Our clock minus the database's; uncertain by half the round trip.
        round_trip_ms: Of the question to the database.
        synchronised: Whether the host says that its clock is kept in step; None where it does not say.
    """

    offset_ms: float
    round_trip_ms: float
    synchronised: bool | None


async def measure(connection: Connection) -> ClockReading:
    """Compares clocks over a few round trips and believes the quickest."""
    readings = []
    for _ in range(ROUND_TRIPS):
        before, wall = time.perf_counter(), time.time()
        theirs: float = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::double precision")
        round_trip = time.perf_counter() - before
        readings.append((round_trip, wall + round_trip / 2 - theirs))
    round_trip, offset = min(readings)
    return ClockReading(offset * 1000, round_trip * 1000, synchronised())


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def synchronised() -> bool | None:
    """Whether the host's clock is kept in step, as adjtimex(2) says; None where there is no such call."""
    if sys.platform != "linux":
        return None
    timex = _Timex()  # modes 0: only reads, for which no privilege is needed
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC
