"""Kinds of adapter that can be trained (`engine.adapters.kinds.base`). Loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.adapters.kinds.formula import Formula, Size
from engine.config.schema import NetworkTable
from engine.errors import ModelError
from engine.text import listing
from engine.types import LoraTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.adapters.modules import AdapterModule
    from engine.families.base import LoraReader

LayerKind = str
"""`LoraTarget.kind`."""


class TrainableKind(Formula):
    """A kind that this program trains, saves and checks.

    By default its layers compute x · (W + ΔW)ᵀ by `delta`, and gradients flow through that; a kind with a cheaper
    computation has its own modules (`inject`, `read_back`, `round_to`).
    """

    @abstractmethod
    def is_chosen(self, network: NetworkTable) -> bool:
        """Whether a run with these settings trains this kind."""

    # --- which layers, and how large

    def takes_convolutions(self, network: NetworkTable) -> bool:
        """Whether layers of convolution blocks are targets too."""
        return network.conv_dim is not None or network.dim_from_weights

    def size_of(self, layer: LayerKind, network: NetworkTable) -> Size | None:
        """The adapter's size on a layer of that kind; None where it gets none."""
        if layer != "conv3x3":
            return Size(network.network_dim, network.network_alpha)
        if not network.conv_dim:
            return None
        return Size(network.conv_dim, 1.0 if network.conv_alpha is None else network.conv_alpha)

    def size_in_file(self, parts: Mapping[str, Tensor]) -> Size | None:
        """The size of a module of a file, for `dim_from_weights`; None where the parts do not give it."""
        return None

    def sizes(
        self, targets: Iterable[LoraTarget], network: NetworkTable, modules: Mapping[str, Mapping[str, Tensor]] | None
    ) -> dict[str, Size]:
        """Sizes by Kohya's name; a layer without an adapter is absent.

        Args:
            modules: of the file to start from, whose sizes are used with `dim_from_weights`.

        Raises:
            ModelError: that file has no module of this model.
        """
        if not network.dim_from_weights or modules is None:
            sizes = {target.kohya_name: self.size_of(target.kind, network) for target in targets}
            return {name: size for name, size in sizes.items() if size is not None}
        sizes = {target.kohya_name: self.size_in_file(modules.get(target.kohya_name, {})) for target in targets}
        in_file = {name: size for name, size in sizes.items() if size is not None}
        if not in_file:
            raise ModelError(
                "The LoRA of dim_from_weights has no module of this model.",
                f"It has {listing(list(modules), 3)}.",
                code="lora-without-modules",
            )
        return in_file

    def count(self, shape: tuple[int, ...], layer: LayerKind, network: NetworkTable) -> int:
        """Number of trained parameters of a layer; 0 where it gets no adapter."""
        size = self.size_of(layer, network)
        total = 0
        for sides in self.shapes(shape, size).values() if size is not None else ():
            product = 1
            for side in sides:
                product *= side
            total += product
        return total

    # --- in the model

    def inject(
        self,
        component: nn.Module,
        targets: Sequence[LoraTarget],
        sizes: Mapping[str, Size],
        network: NetworkTable,
    ) -> list[AdapterModule]:
        """Wrap these layers with adapters, in place; `initialise` sets their values later."""
        from engine.adapters.adapted_layers import inject

        return list(inject(self, component, targets, sizes))

    def initialise(self, modules: Sequence[AdapterModule], devices: Mapping[str, torch.device], seed: int) -> None:
        """Give all modules of a run their initial values: generated on the CPU, so the same on every device, for each
        module from the seed and its name.

        Args:
            devices: the device of each component.
        """
        import hashlib

        import torch

        for module in modules:
            digest = hashlib.sha256(f"{seed} {module.target.kohya_name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            module.initialise(generator, devices[module.target.component])

    # --- files

    def check_start(self, name: str, shapes: Mapping[str, tuple[int, ...]], network: NetworkTable) -> None:
        """Refuse a module of the file to start from that does not fit the settings.

        Args:
            name: of the module.
            shapes: by the ends of its keys.

        Raises:
            ModelError: a tensor is missing, or has another shape.
        """
        for role, end in self.written.items():
            if role != "alpha" and end not in shapes:
                raise ModelError(
                    f"The LoRA to start from is incomplete: {name}.{end} is missing.", code="lora-incomplete"
                )

    def misread_by_diffusers(self, modules: Sequence[AdapterModule]) -> list[AdapterModule]:
        """Modules for which diffusers ignores the file's alpha, where its loader does not fold alphas."""
        return []

    def network_args(self, network: NetworkTable) -> dict[str, Any]:
        """The values of `ss_network_args`; empty: the file has none."""
        return {}

    def read_back(
        self,
        twins: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
        modules: Sequence[AdapterModule],
        reader: LoraReader,
    ) -> None:
        """Apply a saved file to `twins`, in place, with a reader that is independent of the training.

        Args:
            twins: the components without the adapter; they share its tensors with the model.
            tensors: the file's, in Kohya's names.
            modules: what was saved.

        Raises:
            TrainingError: the reader refuses the file or a part of it.
        """
        from engine.adapters.changes import apply_module

        for module in modules:
            parts = {role: tensors[f"{module.target.kohya_name}.{end}"].float() for role, end in self.written.items()}
            component = twins[module.target.component]
            apply_module(self, parts, [component.get_submodule(path) for path in module.target.paths])

    def round_to(self, layer: Any, dtype: torch.dtype) -> None:
        """Round the adapter in a layer, or in its twin, as a file of this number format does; shared tensors are not
        changed."""
        for parameter in layer.adapter.parameters():
            parameter.data = parameter.data.to(dtype).float()
