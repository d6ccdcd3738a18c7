"""`make bench`, in small: that it runs and reports. How fast anything is, is for nobody to assert here."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as bench

pytestmark = pytest.mark.timeout(300)


def test_it_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "bench.json"
    bench.main(["--quick", "--json", str(report)])

    content = json.loads(report.read_text())
    figures = {one["name"]: one for one in content["figures"]}
    assert set(content["machine"]) >= {"cores", "cpu", "python"}
    assert all(one["value"] > 0 for one in figures.values() if one["name"] != "sustained without loss")
    assert {
        "from the wire to the committed row",
        "the predecessor's way",
        "sustained without loss",
        "the same with 5 children",
        "processor at 47 searches/s",
        "peak memory at 100 searches/s",
        "drain of a full spool",
        "COPY of the same rows from memory",
        "archive of a month, the whole command",
        "bare COPY of the same month",
        "the predecessor's way to archive it",
        "peak memory of the archive",
        "the month as a file",
        "of that, query",
    } <= set(figures)
    shown = capsys.readouterr().out
    assert all(name in shown for name in figures)
    assert "met" in shown or "short" in shown
