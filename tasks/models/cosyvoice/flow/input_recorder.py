"""Records the inputs of a component of the flow: runs inference and captures the component's calls with a forward hook.

The tokens are random and the prompt is the model's own mel, so that nothing but the model folder is needed. Everything
else that the component gets is computed by the model: encoded tokens, the solver's path from noise to mel, times.
"""

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.flow.base import TokenToMelFlow
from tasks.models.cosyvoice.folder import load_part
from tasks.settings.component import ComponentSpec

SEED = 0
PROMPT_TOKENS, TOKENS = 12, 42  # a flow resamples the ends of more than 40 tokens by themselves
Inputs = dict[str, Tensor]


def record(component: ComponentSpec, *, config: Path, weights: Path) -> dict[str, Inputs]:
    """The inputs of the component at the solver's first, middle and last step, in two utterances.

    The first utterance (PROMPT_TOKENS) has no prompt and is the prompt of the second (TOKENS).

    Args:
        component: its ``name``, ``part`` and ``inputs`` are used.
        config: the folder's model YAML.
        weights: state dict of the whole flow.

    Returns:
        A name for each call, and its inputs by name, fp32.

    Raises:
        UserError: as load_part.
    """
    flow = cast(TokenToMelFlow, load_part(component.part, config=config, weights=weights))
    module = flow.get_submodule(component.name.removeprefix(f"{component.part}."))
    torch.manual_seed(SEED)  # the first generation's solver draws its noise from the global generator
    tokens = torch.randint(flow.input_embedding.num_embeddings, (1, PROMPT_TOKENS + TOKENS))
    prompt, rest = tokens.split((PROMPT_TOKENS, TOKENS), dim=1)
    embedding = torch.randn(1, flow.spk_embed_affine_layer.in_features)
    none = {"prompt_token": prompt[:, :0], "prompt_feat": torch.zeros(1, 0, flow.output_size)}
    with _captured_calls(module, names=component.inputs) as without:
        mel = flow.synthesize(prompt, **none, embedding=embedding)
    with _captured_calls(module, names=component.inputs) as prompted:
        flow.synthesize(rest, prompt_token=prompt, prompt_feat=mel.transpose(1, 2), embedding=embedding)
    return {
        f"{utterance}.step{step}": calls[step]
        for utterance, calls in (("without_prompt", without), ("with_prompt", prompted))
        for step in sorted({0, len(calls) // 2, len(calls) - 1})
    }


@contextlib.contextmanager
def _captured_calls(module: nn.Module, *, names: Iterable[str]) -> Iterator[list[Inputs]]:
    """Every call of the module in this context, its arguments by name."""
    calls: list[Inputs] = []
    signature = inspect.signature(module.forward)

    def capture(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = signature.bind(*given, **named).arguments
        calls.append({name: arguments[name].detach().clone() for name in names})

    hook = module.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
