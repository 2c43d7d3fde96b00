"""Records what a component of the flow is really given: the model speaks, and the component's calls are overheard.

The tokens are random and the prompt is the model's own mel, so that nothing but the model folder is needed. All that
the component sees is what the model makes of them: encoded tokens, the solver's path from noise to mel, times, prompts.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.flow.base import TokenToMelFlow
from tasks.models.cosyvoice.folder import load_part

SEED = 0
PROMPT_TOKENS, TOKENS = 20, 100
Inputs = dict[str, Tensor]


def record(component: Mapping[str, Any], *, config: Path, weights: Path) -> dict[str, Inputs]:
    """The inputs of the component at the solver's first, middle and last step, in two utterances.

    The first utterance (PROMPT_TOKENS) has no prompt and is the prompt of the second (TOKENS).

    Args:
        component: ``name``, ``part`` and ``inputs`` of the declaration.
        config: the folder's model YAML.
        weights: state dict of the whole flow.

    Returns:
        A name for each call, and its inputs by name, fp32.

    Raises:
        UserError: as load_part.
    """
    flow = cast(TokenToMelFlow, load_part(component["part"], config=config, weights=weights))
    module = flow.get_submodule(component["name"].removeprefix(f"{component['part']}."))
    torch.manual_seed(SEED)  # the first generation's solver draws its noise from the global generator
    tokens = torch.randint(flow.input_embedding.num_embeddings, (1, PROMPT_TOKENS + TOKENS))
    prompt, rest = tokens.split((PROMPT_TOKENS, TOKENS), dim=1)
    embedding = torch.randn(1, flow.spk_embed_affine_layer.in_features)
    none = {"prompt_token": prompt[:, :0], "prompt_feat": torch.zeros(1, 0, flow.output_size)}
    with _overheard(module, names=component["inputs"]) as without:
        mel = flow.synthesize(prompt, **none, embedding=embedding)
    with _overheard(module, names=component["inputs"]) as prompted:
        flow.synthesize(rest, prompt_token=prompt, prompt_feat=mel.transpose(1, 2), embedding=embedding)
    return {
        f"{utterance}.step{step}": calls[step]
        for utterance, calls in (("without_prompt", without), ("with_prompt", prompted))
        for step in sorted({0, len(calls) // 2, len(calls) - 1})
    }


@contextlib.contextmanager
def _overheard(module: nn.Module, *, names: Mapping[str, Any]) -> Iterator[list[Inputs]]:
    """Every call of the module in this context, its arguments by name."""
    calls: list[Inputs] = []
    signature = inspect.signature(module.forward)

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = signature.bind(*given, **named).arguments
        calls.append({name: arguments[name].detach().clone() for name in names})

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
