"""The graph is a pure function of the settings: which steps, with which edges, keys and skips."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.freshness.decide import decide
from tasks.freshness.digests import Digests
from tasks.pipeline.graph import build, merge
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stage import Earlier, Stage
from tasks.pipeline.stages.table import STAGES
from tasks.pipeline.step import Step
from tasks.settings.compose import load
from tasks.settings.model_schema import Component

MACHINE = Machine(build_obstacle=("no NVIDIA GPU on this machine", "Run it on the GPU that will serve the plan"))
GPU = Machine(cuda=True, gpu="h200-sm90")
CHECKPOINTS = {"flow": [Path("/ckpt/epoch_1_whole.pt"), Path("/ckpt/epoch_1_whole.yaml")]}


def steps(
    *words: str,
    machine: Machine = MACHINE,
    checkpoints: dict[str, list[Path]] | None = None,
    absent: tuple[str, ...] = (),
) -> dict[str, Step]:
    configs = load(words, workdir=Path("/w"))
    graphs = [build(GraphInputs(config, machine, checkpoints or {}, absent), STAGES) for config in configs]
    return {step.task: step for step in merge(graphs)}


COSYVOICE2 = ("model=cosyvoice2", "model.dir=/m")
ENCODER, ESTIMATOR = "cosyvoice2/flow.encoder.fp32", "cosyvoice2/flow.decoder.estimator.fp32"


def test_the_demo_goes_from_training_to_verified_artifacts() -> None:
    assert list(steps()) == [
        "train:demo/flow",
        "average:demo/flow",
        "export_jit:demo/flow.encoder.fp32",
        "verify_jit:demo/flow.encoder.fp32",
        "record:demo/flow.decoder.estimator",
        "export_onnx:demo/flow.decoder.estimator.fp32",
        "verify_onnx:demo/flow.decoder.estimator.fp32",
        "preflight:demo/flow.decoder.estimator.fp32",
        "export_plan:demo/flow.decoder.estimator.fp32",
        "verify_plan:demo/flow.decoder.estimator.fp32",
    ]


def test_every_input_is_made_by_an_earlier_step_or_lies_outside_the_artifacts() -> None:
    made: set[Path] = set()
    for step in steps().values():
        for path in step.inputs.values():
            assert path in made or "artifacts" not in path.parts
        made |= set(step.outputs.values())


def test_without_checkpoints_averaging_is_skipped_and_the_folders_weights_are_used() -> None:
    made = steps(*COSYVOICE2)
    skip = made["average:cosyvoice2/flow"].skip
    assert skip is not None
    assert not skip.error_if_selected
    assert made[f"export_jit:{ENCODER}"].inputs["weights"] == Path("/m/flow.pt")


def test_with_checkpoints_the_averaged_weights_are_exported() -> None:
    made = steps(*COSYVOICE2, checkpoints=CHECKPOINTS)
    averaged = made["average:cosyvoice2/flow"].outputs["averaged"]
    assert made[f"export_onnx:{ESTIMATOR}"].inputs["weights"] == averaged
    assert made[f"verify_onnx:{ESTIMATOR}"].inputs["weights"] == averaged


def test_artifacts_have_the_names_that_the_original_loader_looks_for() -> None:
    made = steps(*COSYVOICE2, "precision=fp32,fp16", machine=GPU)
    names = {
        str(path).partition("artifacts/cosyvoice2/")[2]
        for step in made.values()
        if step.stage.startswith("export") and not step.skip
        for path in step.outputs.values()
    }
    assert names == {
        "flow.encoder.fp32.zip",
        "flow.encoder.fp16.zip",
        "flow.encoder.fp32.onnx",
        "flow.encoder.fp16.onnx",
        "hift.fp32.onnx",
        "flow.decoder.estimator.fp32.onnx",
        "flow.decoder.estimator.fp16.onnx",
        "flow.decoder.estimator.fp32.h200-sm90.plan",
        "flow.decoder.estimator.fp16.h200-sm90.plan",
        "vllm/config.json",
        "vllm/generation_config.json",
        "vllm/model.safetensors",
    }


def test_a_plan_that_cannot_be_built_here_is_skipped_with_reason_and_remedy() -> None:
    skip = steps(*COSYVOICE2)[f"export_plan:{ESTIMATOR}"].skip
    assert skip is not None
    assert (skip.reason, skip.remedy, skip.error_if_selected) == (*(MACHINE.build_obstacle or ()), True)


def test_preflight_comes_before_a_plan_is_built() -> None:
    made = steps(*COSYVOICE2, machine=GPU)
    assert made[f"export_plan:{ESTIMATOR}"].after == (f"preflight:{ESTIMATOR}",)
    assert made[f"preflight:{ESTIMATOR}"].skip is None


def test_what_the_model_gives_its_estimator_is_recorded_once_and_tried_by_every_verification() -> None:
    made = steps(*COSYVOICE2, "precision=fp32,fp16", machine=GPU)
    (recording,) = (step for step in made.values() if step.stage == "record")
    tried_by = {task for task, step in made.items() if step.inputs.get("recorded") == recording.outputs["recorded"]}
    assert tried_by == {task for task in made if task.startswith("verify") and "flow.decoder.estimator" in task}


def test_recordings_of_the_user_are_tried_as_well_and_the_models_own_can_be_left_out() -> None:
    words = ("model.components.flow_decoder_estimator.recordings=[a.pt,/b.pt]", "verify.real_inputs=false")
    made = steps(*COSYVOICE2, *words)
    recorded = {role: path for role, path in made[f"verify_onnx:{ESTIMATOR}"].inputs.items() if "recorded" in role}
    assert recorded == {"recorded 1": Path("/w/a.pt"), "recorded 2": Path("/b.pt")}
    assert not [step for step in made.values() if step.stage == "record"]


def test_where_the_timing_cache_lies_and_how_many_contexts_run_change_no_step() -> None:
    words = ("tensorrt.timing_cache=/elsewhere", "tensorrt.concurrency=8")
    before, after = steps(*COSYVOICE2, machine=GPU), steps(*COSYVOICE2, *words, machine=GPU)
    assert [step.params for step in before.values()] == [step.params for step in after.values()]


def test_where_only_another_gpus_plan_is_there_the_reason_names_it(tmp_path: Path) -> None:
    step = steps(*COSYVOICE2, f"artifacts={tmp_path}", machine=GPU)[f"export_plan:{ESTIMATOR}"]
    step = replace(step, inputs={})
    digests = Digests(tmp_path / "memo.json")
    assert decide(step, digests).reasons == ("not built yet",)
    (tmp_path / "cosyvoice2").mkdir()
    (tmp_path / "cosyvoice2/flow.decoder.estimator.fp32.l40s-sm89.plan").touch()
    (tmp_path / "cosyvoice2/flow.decoder.estimator.fp16.l40s-sm89.plan").touch()
    other = "flow.decoder.estimator.fp32.l40s-sm89.plan"
    assert decide(step, digests).reasons == (f"not built for this machine yet; there is {other}",)


def test_a_plan_of_another_tensorrt_or_gpu_is_another_step() -> None:
    task = f"export_plan:{ESTIMATOR}"
    old, new = (steps(*COSYVOICE2, machine=replace(GPU, tensorrt=version))[task] for version in ("10.13.3", "11.4.0"))
    assert (old.params["tensorrt_version"], new.params["tensorrt_version"]) == ("10.13.3", "11.4.0")
    assert steps(*COSYVOICE2, machine=replace(GPU, gpu="l40s-sm89"))[task].outputs != old.outputs


def test_required_plans_are_not_skipped() -> None:
    assert steps(*COSYVOICE2, "tensorrt.mode=required")[f"export_plan:{ESTIMATOR}"].skip is None


@pytest.mark.parametrize("stage", ["preflight", "export_plan", "verify_plan"])
def test_with_plans_turned_off_their_steps_say_so_also_where_they_could_be_built(stage: str) -> None:
    skip = steps(*COSYVOICE2, "tensorrt.mode=off", machine=GPU)[f"{stage}:{ESTIMATOR}"].skip
    assert skip is not None
    assert skip.text == "tensorrt.mode=off: no plans are wanted. Set tensorrt.mode=auto"
    assert skip.error_if_selected


def test_an_axis_is_a_parameter_only_of_steps_whose_tensors_have_it() -> None:
    before, after = steps(*COSYVOICE2), steps(*COSYVOICE2, "model.axes.tokens.max=900")
    changed = {task for task in before if before[task] != after[task]}
    assert changed == {f"{stage}:{ENCODER}" for stage in ("verify_jit", "export_onnx", "verify_onnx")}


def test_settings_that_only_decide_whether_a_step_runs_are_not_parameters() -> None:
    assert steps(*COSYVOICE2) == steps(*COSYVOICE2, "verify.auto=false")


@pytest.mark.parametrize(("machine", "target"), [(MACHINE, "cpu"), (GPU, "cuda")])
def test_the_automatic_torchscript_target_is_decided_here_and_recorded(machine: Machine, target: str) -> None:
    assert steps(*COSYVOICE2, machine=machine)[f"export_jit:{ENCODER}"].params["torchscript"]["target"] == target


@pytest.mark.parametrize(("opset", "exporter"), [(17, "torchscript"), (18, "dynamo"), (23, "dynamo")])
def test_the_automatic_exporter_is_the_one_that_can_write_the_opset(opset: int, exporter: str) -> None:
    onnx = steps(*COSYVOICE2, f"onnx.opset={opset}")[f"export_onnx:{ESTIMATOR}"].params["onnx"]
    assert (onnx["opset"], onnx["exporter"]) == (opset, exporter)


def test_a_sweep_over_models_and_precisions_is_the_union_of_their_steps() -> None:
    made = steps("model=demo,cosyvoice2", "model.dir=/m", "precision=fp32,fp16")
    assert len([task for task in made if task.startswith("export_onnx:") and "estimator" in task]) == 4
    assert len([task for task in made if task.startswith("train:")]) == 1


def test_a_sweep_that_builds_one_step_in_two_ways_is_refused_with_both_values() -> None:
    with pytest.raises(ConfigError) as caught:
        steps(*COSYVOICE2, "onnx.opset=17,18")
    assert "onnx.opset 17 and 18" in caught.value.problems[0]


def test_a_component_is_skipped_in_precisions_it_is_not_exported_in() -> None:
    made = steps(*COSYVOICE2, "precision=fp32,fp16")
    assert made["export_onnx:cosyvoice2/hift.fp32"].skip is None
    for stage in ("export_onnx", "verify_onnx"):
        skip = made[f"{stage}:cosyvoice2/hift.fp16"].skip
        assert skip is not None
        assert skip.reason.startswith("hift is exported in fp32 only: ")
        assert (skip.error_if_selected, skip.error_if_named) == (False, True)


@pytest.mark.parametrize("setting", ["artifacts", "tensorrt.timing_cache"])
def test_steps_in_two_folders_are_refused_with_both_of_them(setting: str) -> None:
    configs = [load([f"{setting}={folder}"], workdir=Path("/w"))[0] for folder in ("/one", "/two")]
    with pytest.raises(ConfigError) as caught:
        merge([build(GraphInputs(one, GPU, {}), STAGES) for one in configs])
    problems = caught.value.problems[:-1]
    assert all("/one" in problem and "/two" in problem for problem in problems)
    assert max(map(len, problems)) < 600


def test_in_a_sweep_the_demo_does_not_read_the_other_models_folder() -> None:
    made = steps("model=demo,cosyvoice2", "model.dir=/m")
    assert {task: step for task, step in made.items() if "demo/" in task} == steps()


def test_checkpoints_given_for_a_trained_part_are_averaged_instead_of_training() -> None:
    made = steps(checkpoints=CHECKPOINTS)
    assert not [task for task in made if task.startswith("train")]
    assert list(made["average:demo/flow"].inputs.values()) == CHECKPOINTS["flow"]


def test_what_is_made_of_a_part_that_the_folder_does_not_have_is_skipped() -> None:
    made = steps(*COSYVOICE2, absent=("hift",))
    skipped = {task: step.skip.reason for task, step in made.items() if step.skip and "hift" in task}
    reason = "the model folder has no hift.pt"
    assert skipped == {
        "average:cosyvoice2/hift": "no checkpoints given for hift.pt; the model folder has none",
        "export_onnx:cosyvoice2/hift.fp32": reason,
        "verify_onnx:cosyvoice2/hift.fp32": reason,
    }


def test_a_part_with_checkpoints_to_average_need_not_be_in_the_folder() -> None:
    made = steps(*COSYVOICE2, absent=("flow",), checkpoints=CHECKPOINTS)
    assert made[f"export_jit:{ENCODER}"].skip is None


def test_the_folder_for_vllm_is_one_step_whatever_the_precisions() -> None:
    made = steps(*COSYVOICE2, "precision=fp32,fp16")
    assert [task for task in made if "vllm" in task] == ["export_vllm:cosyvoice2/llm", "verify_vllm:cosyvoice2/llm"]
    export, verify = (made[f"{stage}:cosyvoice2/llm"] for stage in ("export_vllm", "verify_vllm"))
    assert str(export.receipt).endswith("artifacts/cosyvoice2/vllm.receipt.json")
    assert set(export.outputs.values()) <= set(verify.inputs.values())
    assert export.inputs["config.json"] == Path("/m/CosyVoice-BlankEN/config.json")


@pytest.mark.parametrize(
    ("machine", "absent", "reason"),
    [
        (replace(MACHINE, transformers=False), (), "transformers is not installed"),
        (
            MACHINE,
            ("CosyVoice-BlankEN/config.json", "CosyVoice-BlankEN/vocab.json"),
            "the model folder has no CosyVoice-BlankEN/config.json, CosyVoice-BlankEN/vocab.json",
        ),
    ],
)
def test_what_the_folder_for_vllm_lacks_is_reported_and_an_error_where_it_was_asked_for(
    machine: Machine, absent: tuple[str, ...], reason: str
) -> None:
    made = steps(*COSYVOICE2, machine=machine, absent=absent)
    for stage in ("export_vllm", "verify_vllm"):
        skip = made[f"{stage}:cosyvoice2/llm"].skip
        assert skip is not None
        assert (skip.reason, skip.error_if_selected) == (reason, True)


def test_the_records_that_a_component_declares_count_for_every_step_that_loads_it() -> None:
    made = steps(*COSYVOICE2, "model.components.hift.name=vocoder")
    counted = {task: step.records["config"] for task, step in made.items() if step.records}
    assert counted["export_vllm:cosyvoice2/llm"] == counted["verify_vllm:cosyvoice2/llm"] == ("llm", "get_tokenizer")
    assert counted[f"export_jit:{ENCODER}"] == ("flow",)
    assert counted["verify_onnx:cosyvoice2/vocoder.fp32"] == ("hift", "vocoder")


def test_the_demo_has_no_part_but_its_flow() -> None:
    (config,) = load((), workdir=Path("/w"))
    assert list(config.model.parts) == ["flow"]
    assert sorted(config.model.components) == ["flow_decoder_estimator", "flow_encoder"]


def test_a_method_is_verified_piece_by_piece_only_where_the_file_has_it() -> None:
    made = steps("model=cosyvoice", "model.dir=/m")
    chunked = {
        task: step.params["component"]["chunked"]["method"]
        for task, step in made.items()
        if "chunked" in step.params.get("component", {})
    }
    assert chunked == {"verify_jit:cosyvoice/llm.llm.fp32": "forward_chunk"}


def test_another_order_of_a_components_inputs_is_another_key() -> None:
    component = steps(*COSYVOICE2)[f"export_onnx:{ESTIMATOR}"].params["component"]
    assert component["argument_order"] == ["x", "mask", "mu", "t", "spks", "cond", "estimator_out"]


def test_two_steps_never_write_the_same_file() -> None:
    made = steps("model=demo,cosyvoice2", "model.dir=/m", "precision=fp32,fp16", machine=GPU)
    outputs = [path for step in made.values() for path in step.outputs.values()]
    assert len(outputs) == len(set(outputs))


def test_a_stage_named_twice_is_refused_with_its_name() -> None:
    (config,) = load((), workdir=Path("/w"))
    with pytest.raises(ConfigError) as caught:
        build(GraphInputs(config, MACHINE, {}), [*STAGES, STAGES[0], STAGES[3]])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["stage export_jit", "stage train"]


def test_a_new_stage_is_one_row_and_sees_the_earlier_steps_of_its_component() -> None:
    def step(graph: GraphInputs, component: Component, earlier: Earlier) -> Step | None:
        export = earlier.get("export_onnx")
        return replace(export, stage="sign") if export and component.name == "flow.decoder.estimator" else None

    (config,) = load((), workdir=Path("/w"))
    made = build(GraphInputs(config, MACHINE, {}), [*STAGES, Stage("sign", "sign .onnx files", step)])
    assert [one.task for one in made if one.stage == "sign"] == ["sign:demo/flow.decoder.estimator.fp32"]
