"""A low-rank change of one frozen network: its weights, how they move, and peft's layers that apply them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from textual_inversion_ext.errors import ConfigError, ModelError
from textual_inversion_ext.optimizers import RowAdamW
from textual_inversion_ext.parametrizations import UpdateSettings

ADAPTER = "textual_inversion"
"""Name of our layers in peft."""


class NetworkLora(nn.Module):
    r"""The low-rank change of one network: :math:`W + \\frac{\\alpha}{r} B A` for each chosen linear layer.

    All weights lie in one float32 vector, whatever the network's dtype is. So an update is that of a single, very long
    row: the rows' optimizer serves it, decisions stay on the device, and the buffers are the checkpoint. The network
    itself is changed only inside ``with attached()``, and is then exactly as it was before.

    Args:
        network: the frozen network.
        layers: ends of the names of the linear layers to change, such as ``to_q``.
        rank: rank ``r`` of every change.
        alpha: its strength is ``alpha / rank``.
        settings: hyper-parameters of AdamW.
        seed: seed of the first weights, the same on every device.
        what: the network's name, for messages.

    Attributes:
        weights: (1, P) float32, ``A`` and ``B`` of all layers in the order of their names.
        age: (1,) int64, updates received.

    Raises:
        ConfigError: an end names no linear layer.
        ModelError: the network carries other adapters.

    Source:
        Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. ``A`` starts as diffusers'
        LoRA scripts start it (``init_lora_weights="gaussian"``: deviation :math:`1/r`), ``B`` as zero.
    """

    weights: Tensor
    age: Tensor

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        *,
        rank: int,
        alpha: float,
        settings: UpdateSettings,
        seed: int,
        what: str,
    ) -> None:
        super().__init__()
        self._network = (network,)  # In a tuple: a frozen network is no part of this module's state.
        self.layers, self.rank, self.alpha, self.what = tuple(layers), rank, alpha, what
        self._refuse_other_adapters()
        found = linear_layers(network, layers, what)
        self.shapes: dict[str, torch.Size] = {}
        for name, layer in found.items():
            self.shapes[f"{name}.lora_A.weight"] = torch.Size((rank, layer.in_features))
            self.shapes[f"{name}.lora_B.weight"] = torch.Size((layer.out_features, rank))
        self.names = tuple(found)
        device = next(network.parameters()).device
        first = torch.zeros(1, sum(shape.numel() for shape in self.shapes.values()))
        generator = torch.Generator().manual_seed(seed)
        for name, part in self._split(first).items():
            if ".lora_A." in name:
                part.normal_(std=1 / rank, generator=generator)
        self.register_buffer("weights", first.to(device))
        self.register_buffer("age", torch.zeros(1, dtype=torch.int64, device=device))
        self.optimizer = RowAdamW(self.weights.shape, settings, device)
        self.grad = torch.zeros(0)
        self._parameters_in_use: tuple[nn.Parameter, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The network that is changed."""
        return self._network[0]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put peft's layers around the chosen ones for the length of a ``with`` block, then take them out again.

        Yields:
            Nothing; the network now answers with its change.

        Raises:
            ModelError: the network carries other adapters.
        """
        from peft import LoraConfig, inject_adapter_in_model

        self._refuse_other_adapters()
        own = {name: self.network.get_submodule(name) for name in self.names}
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(self.names), init_lora_weights=False
        )
        try:
            with torch.random.fork_rng(devices=[]):  # peft draws weights that ours replace.
                inject_adapter_in_model(config, self.network, ADAPTER)
            self._share_weights()
            yield
        finally:
            self._parameters_in_use, self.grad = (), torch.zeros(0)
            for name, layer in own.items():
                parent, _, child = name.rpartition(".")
                setattr(self.network.get_submodule(parent), child, layer)
            if hasattr(self.network, "peft_config"):
                del self.network.peft_config

    def begin(self, trains: bool) -> None:
        """Forget the gradient of the last step. Call it inside ``attached()``.

        Args:
            trains: whether this step has a gradient for this network.
        """
        for parameter in self._parameters_in_use:
            parameter.requires_grad_(trains)
        self.grad.zero_()

    @torch.no_grad()
    def update(self, grad: Tensor, lr: Tensor, allowed: Tensor) -> Tensor:
        """Move all weights once, or none of them, without synchronising the host.

        At an absurd learning rate a finite gradient throws weights beyond float32. Then they stay where they were, so
        that what is saved is finite.

        Args:
            grad: (1, P) float32; may be non-finite where not allowed.
            lr: (1,) float32 learning rate.
            allowed: (1,) bool.

        Returns:
            (1,) bool, False where the weights would not have been finite.
        """
        self.age.add_(allowed)
        before = self.weights.clone()
        self.optimizer.update(self.weights, grad, lr, allowed, self.age)
        finite = self.weights.isfinite().all(1)
        self.weights.copy_(torch.where(finite, self.weights, before))
        return finite

    def export(self) -> dict[str, Tensor]:
        """Copy the weights in peft's names, with the strength multiplied in, so that alpha is the rank.

        Returns:
            ``NAME.lora_A.weight`` (rank, in) and ``NAME.lora_B.weight`` (out, rank), float32 on the CPU.
        """
        parts = self._split(self.weights.detach().to("cpu", copy=True))
        return {name: part * (self.alpha / self.rank) if ".lora_B." in name else part for name, part in parts.items()}

    def _refuse_other_adapters(self) -> None:
        others = getattr(self.network, "peft_config", None)
        if others:
            raise ModelError(
                f"the {self.what} of this pipeline already carries LoRA layers ({', '.join(map(str, others))}). Fuse"
                " them (pipe.fuse_lora(), pipe.unload_lora_weights()) or unload them first."
            )

    def _split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of a (1, P) vector by the weights' names."""
        pieces = vector[0].split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def _share_weights(self) -> None:
        """Make peft's layers look at our vectors: weights and gradients are views, no step copies them."""
        self.grad = torch.zeros_like(self.weights)
        parameters = {name: nn.Parameter(part, requires_grad=False) for name, part in self._split(self.weights).items()}
        grads = self._split(self.grad)
        for name, parameter in parameters.items():
            parameter.grad = grads[name]
            layer, kind, _ = name.rsplit(".", 2)
            self.network.get_submodule(f"{layer}.{kind}.{ADAPTER}").weight = parameter
        self._parameters_in_use = tuple(parameters.values())


def linear_layers(network: nn.Module, ends: Sequence[str], what: str) -> dict[str, nn.Linear]:
    """Find the linear layers whose names end in given ways.

    Args:
        network: any network.
        ends: last parts of names, such as ``to_q`` or ``ff.net.2``.
        what: the network's name, for messages.

    Returns:
        Name -> layer, sorted by name: the order does not depend on the library's version.

    Raises:
        ConfigError: an end names nothing, or something else than linear layers.
    """
    found: dict[str, nn.Linear] = {}
    for end in ends:
        named = {name: part for name, part in network.named_modules() if end and f".{name}".endswith(f".{end}")}
        kinds = sorted({type(part).__name__ for part in named.values() if not isinstance(part, nn.Linear)})
        if kinds or not named:
            known = _endings_of_linear_layers(network)
            reason = f"names {', '.join(kinds)}, which is not a linear layer" if kinds else "names no layer"
            raise ConfigError(
                f"lora_layers: {end!r} {reason} of the {what}. Linear layers there end in: {', '.join(known)}."
            )
        found |= {name: part for name, part in named.items() if isinstance(part, nn.Linear)}
    return dict(sorted(found.items()))


def _endings_of_linear_layers(network: nn.Module) -> list[str]:
    """Last parts of names; a number alone says nothing, so it keeps the part before it."""
    names = [name.split(".") for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    return sorted({".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]) for parts in names})
