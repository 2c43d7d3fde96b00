"""Samples become rows, ratios and tables; what is not a row of samples is refused."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.results import Row, read_rows, write_rows
from tests.benchmarks.table import table
from tests.benchmarks.turns import in_turns

ROW = Row(
    "CosyVoice 2",
    {
        "published": {"wall": [8.0, 12.0, 40.0], "cpu": [10.0], "peak": [4e9]},
        "ours": {"peak": [6e8], "cpu": [4.0], "wall": [6.0, 5.0, 7.0]},  # as sorted as a file may be
    },
)


def test_a_ratio_is_that_of_the_medians() -> None:
    assert ROW.ratios() == {"published": {"wall": 0.5, "cpu": 0.4, "peak": 0.15}}


def test_without_another_side_there_is_no_ratio() -> None:
    assert Row("demo", {"ours": {"wall": [1.0]}}).ratios() == {}


def test_rows_survive_the_file(tmp_path: Path) -> None:
    write_rows([ROW], tmp_path / "rows.json")
    assert read_rows(tmp_path / "rows.json") == [ROW]


@pytest.mark.parametrize(
    "content",
    [
        {"steps": {"10": {"floor": 0.2}}},
        {"rows": [{"name": "demo"}]},
        {"rows": [{"name": "demo", "sides": {}}]},
        {"rows": [{"name": "demo", "sides": {"ours": {"speed": [1.0]}}}]},
        {"rows": [{"name": "demo", "sides": {"ours": {"wall": []}}}]},
        {"rows": [{"name": "demo", "sides": {"ours": {"wall": 1.0}}}]},
        {"rows": [{"name": "demo", "sides": {"ours": [1.0]}}]},
    ],
)
def test_a_file_without_rows_of_samples_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"rows\.json"):
        read_rows(tmp_path / "rows.json")


def test_sides_become_columns_with_ratios_after_them() -> None:
    assert table([ROW]).splitlines() == [
        "|  | published | ours | ours / published |",
        "| --- | ---: | ---: | ---: |",
        "| CosyVoice 2 | 12.0 s, 10.0 s, 4.00 GB | 6.0 s, 4.0 s, 600 MB | wall 0.50, CPU 0.40, memory 0.15 |",
    ]


def test_of_a_single_side_the_quantities_become_columns() -> None:
    rows = [Row("export", {"ours": {"wall": [0.25], "nodes": [1861]}}), Row("verify", {"ours": {"snr": [112.7]}})]
    assert table(rows).splitlines() == [
        "|  | wall | nodes | SNR |",
        "| --- | ---: | ---: | ---: |",
        "| export | 250 ms | 1861 |  |",
        "| verify |  |  | 113 dB |",
    ]


def test_each_round_begins_with_another_side() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) or {"wall": float(len(order))} for name in "abc"}  # type: ignore[func-returns-value, misc]
    samples = in_turns(sides, rounds=2)
    assert "".join(order) == "abcbca"
    assert samples == {"a": {"wall": [1.0, 6.0]}, "b": {"wall": [2.0, 4.0]}, "c": {"wall": [3.0, 5.0]}}
