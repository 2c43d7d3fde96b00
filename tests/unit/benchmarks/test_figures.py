"""What README and FIGURES.md state is what figures.json has."""

from pathlib import Path

import pytest

from tests.benchmarks import figures_file, render
from tests.benchmarks.catalogue import MEASUREMENTS, SECTIONS, chosen
from tests.benchmarks.results import Row

ORIGIN = {"date", "commit", "modified", "machine", "versions", "load", "rows"}


def test_figures_md_is_what_is_rendered_from_the_json() -> None:
    assert render.FIGURES.read_text(encoding="utf-8") == render.document(figures_file.read())


def test_the_table_in_readme_is_what_is_rendered_from_the_json() -> None:
    readme = render.README.read_text(encoding="utf-8")
    assert readme == render.with_summary(readme, figures_file.read())


def test_every_measurement_in_the_json_is_in_the_catalogue_and_says_what_it_was_made_on() -> None:
    figures = figures_file.read()
    assert figures
    assert figures.keys() <= {measurement.name for measurement in MEASUREMENTS}
    for result in figures.values():
        assert result.keys() >= ORIGIN


def test_the_ratios_in_the_json_are_those_of_its_samples() -> None:
    for result in figures_file.read().values():
        for row in result["rows"]:
            assert row["ratios"] == Row.from_plain(row).ratios()


def test_readme_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="README"):
        render.with_summary("# voxkiln\n", {})


def test_a_measurement_replaces_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figures_file.put("onnx.cosyvoice", {"rows": [], "date": "then"}, file)
    figures_file.put("average", {"rows": [], "date": "then"}, file)
    figures_file.put("average", {"rows": [], "date": "now"}, file)
    assert {name: result["date"] for name, result in figures_file.read(file).items()} == {
        "onnx.cosyvoice": "then",
        "average": "now",
    }


def test_only_takes_a_measurement_or_a_section() -> None:
    names = [measurement.name for measurement in chosen(["latency.cosyvoice3", "torchscript"])]
    assert names == ["torchscript.cosyvoice", "torchscript.cosyvoice2", "latency.cosyvoice3"]
    assert chosen([]) == list(MEASUREMENTS)


def test_a_name_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"cosyvoice9.*latency\.cosyvoice3"):
        chosen(["onnx.cosyvoice9"])


def test_every_measurement_has_a_section() -> None:
    assert {measurement.section for measurement in MEASUREMENTS} == SECTIONS.keys()
