"""Of a model YAML, a step counts every record that what it runs reads."""

import pytest

from tasks.models.cosyvoice.hyperyaml.document import Document
from tasks.objects import load_object
from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.settings.component import ComponentSpec
from tasks.settings.compose import load
from tests.support.folders import config_of

FAMILIES = {"cosyvoice": "cosyvoice1", "cosyvoice2": "cosyvoice2", "cosyvoice3": "cosyvoice3"}


def steps_of(model, folder):
    (config,) = load([f"model={model}", f"model.dir={folder}"], workdir=folder)
    return [step for step in build(GraphInputs(config, Machine(), {}), STAGES) if "config" in step.inputs]


@pytest.fixture
def read(monkeypatch):
    """The top-level keys that are looked up in model YAMLs."""
    keys = set()

    def tracking(original):
        def tracked(self, path):
            keys.add(path.partition(".")[0])
            return original(self, path)

        return tracked

    for name in ("get", "find"):
        monkeypatch.setattr(Document, name, tracking(getattr(Document, name)))
    return keys


@pytest.mark.parametrize("model", FAMILIES)
def test_a_step_counts_the_records_that_its_loader_reads(model, read):
    for step in steps_of(model, config_of(FAMILIES[model]).parent):
        component = step.params["component"]
        load_it = load_object(step.params.get("recorder") or component["loader"])
        read.clear()
        load_it(ComponentSpec.from_params(component), config=step.inputs["config"], weights=step.inputs["weights"])
        assert read
        assert read <= set(step.records["config"]), step.task
