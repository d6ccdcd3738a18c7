"""What a collector says of itself, in a line for the log and on a page for Prefect. Numbers only, never a name."""

from datetime import UTC, datetime
from typing import Any

MOMENT = "%Y-%m-%d %H:%M:%S UTC"


def line(status: dict[str, Any]) -> str:
    """One line a minute."""
    totals, spool = status["totals"], status["spool"]
    parts = [
        f"{status['client_id']}: {_place(status)}",
        f"{status['kept_last_minute']:,} searches in the last minute, {totals['kept']:,} in all",
        f"{spool['searches']:,} in the spool",
    ]
    if not status["database"]["connected"]:
        parts.append("database away" + (f" ({reason})" if (reason := status["database"]["error"]) else ""))
    if dropped := sum(totals["dropped"].values()):
        parts.append(f"{dropped:,} DROPPED ({', '.join(totals['dropped'])})")
    if status["warning"]:
        parts.append(status["warning"])
    return "; ".join(parts)


def page(status: dict[str, Any]) -> str:
    """A page of Markdown."""
    totals, spool, database, clock = status["totals"], status["spool"], status["database"], status["clock"]
    rows = {
        "State": f"{_place(status)}, since {_moment(status['since'])}",
        "Searches in the last minute": f"{status['kept_last_minute']:,}",
        "Searches since the start": f"{totals['kept']:,}",
        "Heard twice": f"{totals['duplicates']:,}",
        "Refused": _reasons(totals["refused"]),
        "Dropped": _reasons(totals["dropped"]),
        "Waiting in the spool": f"{spool['searches']:,} searches, {spool['bytes'] / 1e6:,.1f} MB",
        "Last batch": _moment(database["last_batch_at"]) if database["last_batch_at"] else "none yet",
        "Database": "connected" if database["connected"] else database["error"] or "not connected",
        "Clock": f"{clock['offset_ms']:+.1f} ms against the database" if clock else "not measured yet",
        "Started": _moment(status["started_at"]),
    }
    if status["warning"]:
        rows["Warning"] = status["warning"]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    # It is written anew in place, and whoever shows it shows when it was first written.
    return f"| {status['client_id']} | as of {datetime.now(UTC):{MOMENT}} |\n|---|---|\n{table}\n"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):{MOMENT}}"


def _place(status: dict[str, Any]) -> str:
    if status["state"] == "listening" and status["role"]:
        return f"listening ({status['role']}, level {status['level']})"
    return str(status["state"]) + (f" ({status['detail']})" if status["detail"] else "")


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items())) or "none"
