"""Every measurement that is kept in figures.json, and how the sections of FIGURES.md are headed."""

from dataclasses import dataclass

from tests.benchmarks.sides import MODELS

Words = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    title: str
    note: str


# In the order of FIGURES.md. A note says what the figures are of; figures are in tables only.
SECTIONS = {
    "onnx": Section(
        "ONNX export and check of the estimator",
        "The published export_onnx.py, with the older exporter (as it is, it fails with this PyTorch), against "
        "`doit verify_onnx`, which exports, records real inputs and verifies. The script loads the whole model; the "
        "second column has what it costs with the flow alone. The front end is loaded on neither side.",
    ),
    "torchscript": Section(
        "TorchScript export, fp32 and fp16",
        "The published export_jit.py against `doit export_jit`; neither checks what it has written.",
    ),
    "average": Section(
        "Averaging five checkpoints of 1.2 GB",
        "The published algorithm, a script that loads, adds, divides and saves, against `doit average` with its "
        "digests, checks and receipt; alone: once Python and PyTorch are imported. Warm: with the files in the page "
        "cache.",
    ),
    "nothing_to_do": Section(
        "A run with nothing to do",
        "Commands where everything is fresh. The floor is what starting Python, doit and Hydra and composing takes.",
    ),
    "latency": Section(
        "Latency of the estimator in ONNX Runtime",
        "fp32, a batch of two, two threads, whole mask; sides in turns in one process. Seconds of one call.",
    ),
    "side_by_side": Section(
        "Two steps at once",
        "`doit -n 2 export_all` against `doit export_all`, from nothing. A step on its own uses both cores where it "
        "computes, so that -n 2 can at best bring the wall time down to half of the CPU time.",
    ),
    "steps": Section(
        "Every step of `doit export_all`",
        "From nothing. SNR and the largest error of an element are against the eager module; the line of the whole "
        "command has the memory of all processes.",
    ),
}


@dataclass(frozen=True)
class Measurement:
    """A benchmark module and its words, in which {work} is a folder for model folders and exported files."""

    name: str  # "onnx.cosyvoice2": its section, and what it is of
    module: str
    words: Words
    prepare: tuple[Words, ...] = ()  # commands of `python -m` whose cost is not measured
    has_published_side: bool = False
    has_rounds: bool = True

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]


def _folder(model: str) -> str:
    return f"{{work}}/models/{model}"


def _model_folder(model: str) -> Words:
    return ("tests.benchmarks.full_size", model, _folder(model), "--missing")


def _scripts(work: str, model: str) -> Measurement:
    words = (work, model, _folder(model))
    prepare = (_model_folder(model),)
    return Measurement(f"{work}.{model}", "bench_scripts", words, prepare, has_published_side=True)


def _latency(model: str) -> Measurement:
    return Measurement(
        f"latency.{model}",
        "bench_estimator",
        (model, _folder(model), "--output", "{work}"),
        (_model_folder(model),),
        has_published_side=True,
    )


MEASUREMENTS = (
    *(_scripts("onnx", model) for model in MODELS),
    *(_scripts("torchscript", model) for model in ("cosyvoice", "cosyvoice2")),
    Measurement("average", "bench_average", ("--folder", "{work}")),
    Measurement("average.cold", "bench_average", ("--folder", "{work}", "--cold")),
    Measurement("nothing_to_do", "bench_nothing_to_do", ()),
    *map(_latency, MODELS),
    Measurement(
        "side_by_side.cosyvoice2",
        "bench_side_by_side",
        ("cosyvoice2", _folder("cosyvoice2"), "--parts", "flow"),
        (_model_folder("cosyvoice2"),),
    ),
    Measurement("steps.demo", "bench_export", ("demo",), has_rounds=False),
    Measurement(
        "steps.cosyvoice2",
        "bench_export",
        ("cosyvoice2", f"model.dir={_folder('cosyvoice2')}"),
        (_model_folder("cosyvoice2"),),
        has_rounds=False,
    ),
)


def chosen(names: list[str]) -> list[Measurement]:
    """Those of a name or of a whole section, in the order of the catalogue; all without names.

    Raises:
        ValueError: a name that is neither.
    """
    known = {found for measurement in MEASUREMENTS for found in (measurement.name, measurement.section)}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"unknown measurements {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [found for found in MEASUREMENTS if not names or {found.name, found.section} & set(names)]
