"""Kinds of adapter that can be trained (`engine.adapters.kinds.base`). Loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from engine.adapters.kinds.formula import Form, Formula, Size
from engine.config.network import NetworkTable
from engine.errors import ModelError
from engine.types import LoraTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.adapters.modules import AdapterModule
    from engine.families.base import LoraReader

LayerKind = str
"""`LoraTarget.kind`."""
_FIT = (
    "Set network_dim, conv_dim and the other settings of the kind to that file's, or set dim_from_weights; another "
    "kind of model does not fit at all."
)


class TrainableKind(Formula):
    """A kind that this program trains, saves and checks.

    By default its layers add x · ΔWᵀ by `delta`, or by `low_rank` or `kronecker` where the kind has these, and
    gradients flow through that; a kind with a cheaper computation has its own modules (`inject`, `read_back`,
    `round_to`).
    """

    can_be_decomposed: bool = False
    """Whether it can be trained with DoRA's weight decomposition (`dora_wd`)."""

    @abstractmethod
    def is_chosen(self, network: NetworkTable) -> bool:
        """Whether a run with these settings trains this kind, with weight decomposition or without."""

    # --- which layers, and how large

    def takes_convolutions(self, network: NetworkTable) -> bool:
        """Whether layers of convolution blocks are targets too."""
        return network.conv_rank is not None or network.dim_from_weights

    def takes(self, name: str) -> bool:
        """Whether a layer gets one, by its name in a model or in Kohya's files, with underscores for dots."""
        return True

    def size_of(self, layer: LayerKind, network: NetworkTable) -> Size | None:
        """The adapter's size on a layer of that kind; None where it gets none."""
        form = Form(**{key: getattr(network, key) for key in Form.__dataclass_fields__})
        rank, alpha = network.network_dim, network.network_alpha
        if layer == "conv3x3":
            if not network.conv_rank:
                return None
            rank, alpha = network.conv_rank, network.conv_scale
        # rsLoRA's scale is alpha / √rank (Kalajdzievski 2023); readers divide a file's alpha by the rank
        return Size(rank, alpha * sqrt(rank) if network.rs_lora else alpha, form)

    def size_in_file(self, parts: Mapping[str, Tensor]) -> Size | None:
        """The size of a module of a file, for `dim_from_weights`; None where the parts do not give it.

        Args:
            parts: by the ends of their keys.
        """
        ends = {end: role for role, end in self.written.items()}
        tensors = {ends[end]: tensor for end, tensor in parts.items() if end in ends}
        shapes = {role: tuple(tensor.shape) for role, tensor in tensors.items()}
        if not self.recognises(shapes) or self.lacking(shapes, ""):
            return None
        rank = self.effective_rank(tensors) or 1
        alpha = float(tensors["alpha"]) if "alpha" in tensors else float(rank)
        return Size(rank, alpha, file_shapes=tuple((role, sides) for role, sides in shapes.items() if sides))

    def sizes(
        self,
        targets: Iterable[LoraTarget],
        network: NetworkTable,
        modules: Mapping[str, Mapping[str, Tensor]] | None,
        tables: Mapping[str, NetworkTable],
    ) -> dict[str, Size]:
        """Sizes by Kohya's name; a layer without an adapter is absent.

        Args:
            modules: of the file to start from, whose sizes are used with `dim_from_weights`.
            tables: `network` for layers with a rank of their own, by Kohya's name.
        """
        sizes = {}
        for target in targets:
            if network.dim_from_weights and modules is not None:
                size = self.size_in_file(modules.get(target.kohya_name, {}))
            else:
                table = tables.get(target.kohya_name, network)
                size = self.size_of(target.kind, table) if self.takes(target.kohya_name) else None
            if size is not None:
                sizes[target.kohya_name] = size
        return sizes

    def count(
        self, name: str, shape: tuple[int, ...], layer: LayerKind, network: NetworkTable, *, bias: bool = False
    ) -> int:
        """Number of trained parameters of a layer in a file; 0 where it gets no adapter.

        Args:
            name: as `takes` reads it.
            bias: whether the layer has a bias.
        """
        size = self.size_of(layer, network) if self.takes(name) else None
        return 0 if size is None else sum(map(prod, self.shapes(shape, replace(size, bias=bias)).values()))

    # --- in the model

    def inject(
        self,
        component: nn.Module,
        targets: Sequence[LoraTarget],
        sizes: Mapping[str, Size],
        network: NetworkTable,
    ) -> list[AdapterModule]:
        """Wrap these layers with adapters, in place; `initialise` sets their values later.

        Raises:
            UsageError: a layer cannot have one of this kind.
        """
        from engine.adapters.adapted_layers import inject

        return list(inject(self, component, targets, sizes, network))

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
        roles = {role: shapes[end] for role, end in self.written.items() if end in shapes}
        if absent := self.lacking(roles, ""):
            raise ModelError(
                f"The LoRA to start from is incomplete: {name}.{self.written.get(absent[0], absent[0])} is missing.",
                code="lora-incomplete",
            )
        rank, allowed = self.rank(roles), {str(network.network_dim), str(network.conv_rank)}
        if not network.dim_from_weights and rank is not None and rank.isdecimal() and rank not in allowed:
            raise ModelError(
                f"{name} of the LoRA to start from has the rank {rank}, here it is {network.network_dim}.",
                _FIT,
                code="lora-wrong-rank",
            )

    def misread_by_diffusers(self, modules: Sequence[AdapterModule]) -> list[AdapterModule]:
        """Modules for which diffusers ignores the file's alpha, where its loader does not fold alphas."""
        return []

    def network_args(self, network: NetworkTable) -> dict[str, Any]:
        """The values of `ss_network_args`; empty: the file has none."""
        return dict(network.lycoris_arguments)

    def trained_name(self, network: NetworkTable) -> str:
        """The name of what a run with these settings trains, in messages."""
        return self.name

    def read_back(
        self,
        twins: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
        modules: Sequence[AdapterModule],
        reader: LoraReader,
    ) -> None:
        """Apply a saved file to `twins`, in place, with a reader that is independent of the training: by default
        `engine.adapters.merged_reader`, and for kinds that it does not know by ΔW.

        Args:
            twins: the components without the adapter; they share its tensors with the model.
            tensors: the file's, in Kohya's names.
            modules: what was saved.

        Raises:
            TrainingError: the reader refuses the file or a part of it.
        """
        from engine.adapters.changes import apply_module
        from engine.adapters.merged_reader import knows, read_back

        if knows(tensors):
            return read_back(twins, tensors, [module.target for module in modules])
        for module in modules:
            own = {role: f"{module.target.kohya_name}.{end}" for role, end in self.written.items()}
            parts = {role: tensors[key].float() for role, key in own.items() if key in tensors}
            component = twins[module.target.component]
            apply_module(self, parts, [component.get_submodule(path) for path in module.target.paths])

    def round_to(self, layer: Any, dtype: torch.dtype) -> None:
        """Round the adapter in a layer, or in its twin, as a file of this number format does; shared tensors are not
        changed."""
        layer.rounding = dtype
