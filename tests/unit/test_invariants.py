import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_invariant_names_tests_that_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "INVARIANTS.md").read_text())
    written = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }

    assert len(named) > 20
    assert not set(named) - written
