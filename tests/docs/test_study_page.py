"""docs/study.md says what its archive holds."""

import re
import tarfile
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
MODELS = 4  # of each seed


def count_cells_by_seed():
    """The number of finished cells of each seed in the archive."""
    with tarfile.open(DOCS / "study" / "results.tar.xz") as archive:
        names = archive.getnames()
    seeds = [re.fullmatch(r"cells/.*-s(\d+)/result.json", name) for name in names]
    return Counter(int(match[1]) for match in seeds if match)


def test_the_page_lists_the_finished_seeds():
    page = (DOCS / "study.md").read_text()
    cells = count_cells_by_seed()
    assert set(cells.values()) == {MODELS}, "a seed is there with all of its models"
    rows = re.findall(r"^\| ([\d, ]+) \| [0-9a-f]{7} \|", page, flags=re.MULTILINE)
    assert sorted(int(seed) for row in rows for seed in row.split(",")) == sorted(cells)
    assert f"The study is being run: {len(cells)} of 6 seeds are finished." in page
