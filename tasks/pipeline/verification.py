"""The step that compares one artifact with the original module, whatever its format."""

from typing import Any

from tasks.pipeline.component_params import declaration, recordings, records, sources
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.pipeline.step import Step
from tasks.plain_data import plain
from tasks.settings.model_schema import Component

# Settings that decide whether artifacts are verified and on what, not how: recordings are inputs of their own.
NOT_IN_PARAMS = ("auto", "real_inputs")


def verification(
    given: GraphInputs,
    component: Component,
    export: Step,
    *,
    stage: str,
    runtime: str,
    contents: str = "",
    libraries: tuple[str, ...] = (),
) -> Step:
    """Compare the one artifact of `export`.

    Args:
        runtime: ``module:function`` that opens the artifact.
        contents: ``module:function`` that lists its weights, if anything does.
        libraries: distributions that run it beside PyTorch.
    """
    (artifact,) = export.outputs.values()
    return Step(
        stage=stage,
        name=export.name,
        action="tasks.actions.verify.compare:run",
        inputs={**sources(given, component), "artifact": artifact, **recordings(given, component)},
        outputs={"report": given.paths.report(artifact)},
        params={
            "component": declaration(given, component) | {"kept_methods": list(component.kept_methods)},
            "precision": plain(given.config.precision),
            "verify": _settings(given),
            "runtime": runtime,
            "contents": contents,
        },
        records=records(given, component),
        libraries=("torch", *libraries),
    )


def _settings(given: GraphInputs) -> dict[str, Any]:
    settings: dict[str, Any] = plain(given.config.verify)
    return {name: value for name, value in settings.items() if name not in NOT_IN_PARAMS} | {
        "device": given.verification_device
    }
