"""Loaders that damage a module before it is exported as TorchScript, each in one way, as mistakes in its code would.

A component's declaration names them in the place of its own loader.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from tasks.models.cosyvoice.folder import load_component
from tasks.settings.component import ComponentSpec

Item = TypeVar("Item")


def scaled_weight(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """All of one weight by 1 %."""
    return _changed(component, config, weights, lambda module: _middle(_weights(module)).mul_(1.01))


def one_element(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """One element of one weight by 1 % of the largest."""

    def change(module: nn.Module) -> None:
        weight = _middle(_weights(module))
        weight.view(-1)[weight.numel() // 2] += 0.01 * weight.abs().max()

    return _changed(component, config, weights, change)


def zeroed_bias(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    return _changed(component, config, weights, lambda module: _middle(_biases(module)).zero_())


def dropped_residual(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """A layer in the middle returns what it adds to its input, without the input."""
    module = load_component(component, config=config, weights=weights)
    layers = getattr(module, "encoders", None)
    if layers is None:
        return _WithoutInput(module)
    layers[len(layers) // 2] = _LayerWithoutInput(layers[len(layers) // 2])
    return module


def layer_in_bf16(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """The result of a layer in the middle is rounded to bf16."""
    module = load_component(component, config=config, weights=weights)
    name = _middle([name for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Conv1d))])
    module.set_submodule(name, _InBf16(module.get_submodule(name)))
    return module


def shorter_lengths(component: ComponentSpec, *, config: Path, weights: Path) -> nn.Module:
    """Lengths that are one too small."""
    module = load_component(component, config=config, weights=weights)
    return _ShorterStreaming(module) if "context" in inspect.signature(module.forward).parameters else _Shorter(module)


class _WithoutInput(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs) - inputs


class _LayerWithoutInput(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        return self.inner(x, bias, positions, valid) - x

    @torch.jit.export
    def forward_cached(
        self, x: Tensor, bias: Tensor, positions: Tensor, cache: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, cache, before = self.inner.forward_cached(x, bias, positions, cache, before)
        return y - x, cache, before


class _InBf16(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).to(torch.bfloat16).to(x.dtype)


class _Shorter(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, xs: Tensor, xs_lens: Tensor, decoding_chunk_size: int = 0, num_decoding_left_chunks: int = -1
    ) -> tuple[Tensor, Tensor]:
        return self.inner(xs, xs_lens - 1, decoding_chunk_size, num_decoding_left_chunks)

    @torch.jit.export
    def forward_chunk(  # noqa: PLR0917 - the original order
        self,
        xs: Tensor,
        offset: int,
        required_cache_size: int,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.inner.forward_chunk(xs, offset, required_cache_size, att_cache, cnn_cache, att_mask)


class _ShorterStreaming(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, xs: Tensor, xs_lens: Tensor, context: Tensor | None = None, streaming: bool = False
    ) -> tuple[Tensor, Tensor]:
        return self.inner(xs, xs_lens - 1, context, streaming)


def _changed(component: ComponentSpec, config: Path, weights: Path, change: Callable[[nn.Module], object]) -> nn.Module:
    module = load_component(component, config=config, weights=weights)
    with torch.no_grad():
        change(module)
    return module


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.dim() > 1]


def _biases(module: nn.Module) -> list[Tensor]:
    """Those that are not zeros already."""
    return [parameter for name, parameter in module.named_parameters() if name.endswith("bias") and parameter.any()]


def _middle(items: list[Item]) -> Item:
    return items[len(items) // 2]
