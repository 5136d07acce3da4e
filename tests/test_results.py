"""The results in docs/results: each report is what its raw files say."""

from pathlib import Path

import pytest

from peer.experiments.report.build import MARKDOWN, default_options, write_report

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def committed() -> list[Path]:
    found = sorted(each.parent for each in RESULTS.glob("*/cells.jsonl"))
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("directory", committed(), ids=lambda path: path.name)
def test_report_is_what_its_raw_files_say(directory: Path, tmp_path: Path) -> None:
    written = write_report(directory, tmp_path, default_options())

    assert (tmp_path / MARKDOWN).read_text() == (directory / MARKDOWN).read_text()
    # pictures may differ by a version of Matplotlib, but not in which there are
    assert all((directory / each.relative_to(tmp_path)).is_file() for each in written)
