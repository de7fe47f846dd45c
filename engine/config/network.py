"""`[network]`: the adapter that is trained. Names of Kohya's scripts, and of LyCORIS where only it has the argument."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from engine.config.fields import Table, setting
from engine.config.key_values import number_text
from engine.config.layers import WITH_CONVOLUTIONS, LayersTable, Preset
from engine.config.values import Algo, InitLora, NetworkModule

LYCORIS, KOHYA = "lycoris.kohya", "networks.lora"
IMPLIED: Mapping[str, Algo] = {"networks.loha": "loha", "networks.lokr": "lokr", "locon.locon_kohya": "lora"}
"""Modules that train one kind of adapter, by LyCORIS' name of the kind."""
READ_BY_SCRIPTS = frozenset({"conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "factor", "use_tucker"})
"""The settings that networks.loha and networks.lokr of sd-scripts read in `network_args`."""
_CONVOLUTIONAL = (LYCORIS, "locon.locon_kohya")
"""Modules that train convolutions where `conv_dim` is not set."""
_PRODUCT = ("network_dim", "network_alpha", "conv_alpha", "use_scalar", "rs_lora")
_DORA = ("dora_wd", "wd_on_output")
_ROWS = ("rank_dropout", "rank_dropout_scale")
_OFT = ("network_dim", "constraint", "rescaled")
_LOKR = ("factor", "full_matrix", "decompose_both", "unbalanced_factorization")
_READ_BY: Mapping[Algo, tuple[str, ...]] = {
    "lora": (*_PRODUCT, *_ROWS, *_DORA, "use_tucker", "network_dropout"),
    "locon": (*_PRODUCT, *_ROWS, *_DORA, "use_tucker", "network_dropout"),
    "loha": (*_PRODUCT, *_ROWS, *_DORA, "use_tucker"),
    "lokr": (*_PRODUCT, *_ROWS, *_DORA, "use_tucker", *_LOKR),
    "glora": _PRODUCT,
    "full": _ROWS,
    "diag-oft": _OFT,
    "boft": _OFT,
    "ia3": (),
}
"""The settings that a kind of adapter reads, among those that not every kind does."""
_ARGUMENTS = (
    *(*_LOKR, "use_tucker", "use_scalar", "dora_wd", "rs_lora", "constraint", "rescaled", "train_norm"),
    *(*_ROWS, "module_dropout"),
)
"""LyCORIS' arguments beside the ranks."""
FROM_BASE = frozenset({"pissa", "olora"})
"""Values of `init_lora_weights` with matrices of the base's weights: a file has twice the rank of the training."""
_OF_KINDS = frozenset(key for keys in _READ_BY.values() for key in keys)


class AdapterTable(Table):
    """The kind of adapter, its size, and what it starts from."""

    network_module: NetworkModule = setting(
        "networks.lora",
        "Module",
        "Kohya's name of the program's part that trains the adapter. lycoris.kohya also trains the convolutions of a "
        "U-Net, as LyCORIS does.",
        advanced=True,
    )
    algo: Algo = setting(
        "lora",
        "Kind",
        "The kind of adapter, by LyCORIS' name: lora is read everywhere, lokr and loha are smaller or learn more. "
        "docs/adapters.md compares them.",
        vram="full: much more",
    )
    network_dim: int = setting(
        16, "Rank", "How much the LoRA can learn. Faces 16-32, anime characters 8-16.", ge=1, le=1024, vram="more"
    )
    network_alpha: float = setting(
        8.0, "Alpha", "Scales the LoRA by alpha / rank: alpha at half the rank halves its strength.", gt=0
    )
    conv_dim: int | None = setting(
        None,
        "Convolution rank",
        "Also train the 3x3 convolutions with this rank (LoCon); helps with styles.",
        ge=1,
        le=1024,
        vram="more",
    )
    conv_alpha: float | None = setting(
        None, "Convolution alpha", "Alpha of the convolutions. By default 1, as in Kohya's scripts.", gt=0
    )
    factor: int = setting(
        -1,
        "LoKr factor",
        "LoKr: each layer's sides are split into two numbers, the smaller up to this. A small factor is a large "
        "adapter: 4 to 8 is large, 16 medium, -1 (as even as possible) tiny.",
        ge=-1,
        le=65536,
        advanced=True,
    )
    full_matrix: bool = setting(
        False,
        "LoKr full matrices",
        "LoKr: the larger of its two matrices is never factored, whatever the rank is.",
        vram="more",
        advanced=True,
    )
    decompose_both: bool = setting(
        False, "LoKr factors both", "LoKr: the smaller of its two matrices is factored too.", advanced=True
    )
    unbalanced_factorization: bool = setting(
        False,
        "LoKr unbalanced",
        "LoKr: the split of the outputs is swapped, so that the smaller matrix has the larger share of them.",
        advanced=True,
    )
    use_tucker: bool = setting(
        False,
        "Tucker decomposition",
        "Convolutions wider than 1x1 get three factors instead of two: far smaller at the same rank.",
        vram="less",
        advanced=True,
    )
    use_scalar: bool = setting(
        False,
        "Trained scalar",
        "The adapter begins with a factor of 0 that is trained, and no matrix begins at zero.",
        advanced=True,
    )
    dora_wd: bool = setting(
        False,
        "DoRA",
        "Direction and size of each layer's weights are trained apart: closer to a full fine-tune at the same rank; "
        "a step takes longer. For LoRA, LoHa and LoKr.",
        vram="more",
    )
    wd_on_output: bool = setting(
        False,
        "DoRA by outputs",
        "One size for each output of a layer, as LyCORIS and peft by default. ComfyUI, Forge and A1111 read only one "
        "for each input (off) rightly.",
        advanced=True,
    )
    rs_lora: bool = setting(
        False,
        "Rank-stabilised",
        "The effect is scaled by alpha / √rank instead of alpha / rank (rsLoRA), so that large ranks learn as fast as "
        "small ones; the file's alpha is the one that gives every reader this strength.",
        advanced=True,
    )
    constraint: float = setting(
        0.0,
        "Largest rotation",
        "OFT and BOFT: limit of the rotation, relative to the layer's outputs; 1e-4 to 1e-3 is usual, 0 is none.",
        ge=0,
        le=1,
        advanced=True,
    )
    rescaled: bool = setting(
        False,
        "Rescaled outputs",
        "OFT and BOFT: also train a factor for each output of a layer. ComfyUI ignores it for OFT.",
        advanced=True,
    )
    train_norm: bool = setting(
        False,
        "Norm layers",
        "Also train the weights of a U-Net's normalisation layers (w_norm, b_norm).",
        vram="more",
        advanced=True,
    )
    init_lora_weights: InitLora = setting(
        "default",
        "First values",
        "How the matrices of a plain LoRA begin. pissa and olora: with the main part of each layer's own weight (files "
        "of twice the rank; minutes before the first step for large models); eva: by what the layers see of the "
        "training images, seconds to minutes; gaussian, orthogonal: random. pissa, olora and eva often learn faster.",
        vram="pissa, olora: more",
        advanced=True,
    )
    tlora_min_rank: int | None = setting(
        None,
        "T-LoRA least rank",
        "A plain LoRA trains only so many of its ranks at the noisiest timestep, and more the less noise there is: it "
        "learns less of the background and the poses of few images. 1 to half the rank is usual; unset: all ranks.",
        ge=1,
        le=1024,
        unit="ranks",
        advanced=True,
    )
    tlora_alpha: float = setting(
        1.0,
        "T-LoRA exponent",
        "With tlora_min_rank: 1 adds ranks evenly as the noise falls, above 1 later, below 1 earlier.",
        gt=0,
        le=10,
        advanced=True,
    )
    network_dropout: float = setting(
        0.0, "Dropout", "Share of the down projection's values that is dropped in each step.", ge=0, lt=1, advanced=True
    )
    rank_dropout: float = setting(
        0.0,
        "Rank dropout",
        "Share of ranks that is dropped in each step; the rest is scaled up. LoHa, LoKr, full: share of a layer's "
        "outputs that the adapter leaves out.",
        ge=0,
        lt=1,
        advanced=True,
    )
    rank_dropout_scale: bool = setting(
        False,
        "Rank dropout scaled",
        "LoHa, LoKr, full: scale the remaining outputs up, so that the mean effect stays.",
        advanced=True,
    )
    module_dropout: float = setting(
        0.0, "Module dropout", "Probability that a module is skipped in a step.", ge=0, lt=1, advanced=True
    )
    network_weights: str | None = setting(
        None,
        "Start from",
        "A LoRA file to continue from; of any program whose names `lorasmith inspect` knows.",
        advanced=True,
    )
    dim_from_weights: bool = setting(
        False,
        "Ranks from that file",
        "Use the modules, ranks and alphas of the file in network_weights instead of those set here.",
        advanced=True,
    )
    network_train_unet_only: bool = setting(False, "U-Net only", "Do not train the text encoder.", vram="less")
    network_train_text_encoder_only: bool = setting(
        False, "Text encoder only", "Do not train the U-Net.", vram="less", advanced=True
    )
    scale_weight_norms: float | None = setting(
        None,
        "Maximum norm",
        "After each step a module whose weights have a larger norm is scaled down to it; 1 is usual.",
        gt=0,
        advanced=True,
    )

    @property
    def is_kohyas(self) -> bool:
        """Whether the module is one of Kohya's for plain LoRAs, of any family."""
        return self.network_module.startswith(KOHYA)

    @property
    def draws(self) -> bool:
        """Whether its layers use random numbers in training."""
        return bool(self.network_dropout or self.rank_dropout or self.module_dropout)

    @property
    def is_low_rank(self) -> bool:
        """Whether it trains two matrices of low rank, with weight decomposition or without."""
        return self.algo in ("lora", "locon") and not (self.use_tucker or self.use_scalar)

    @property
    def is_lora(self) -> bool:
        """Whether it trains a plain LoRA, which every program reads."""
        return self.is_low_rank and not self.dora_wd

    @property
    def is_decomposed(self) -> bool:
        """Whether it trains a DoRA."""
        return self.dora_wd and "dora_wd" in _READ_BY[self.algo]

    @property
    def initialisation(self) -> InitLora:
        """The first values of a plain LoRA; with `dim_from_weights` all of them are a file's."""
        return self.init_lora_weights if self.is_lora and not self.dim_from_weights else "default"

    @property
    def rank_factor(self) -> int:
        """The rank in a file over that of the training."""
        return 2 if self.initialisation in FROM_BASE else 1

    @property
    def conv_rank(self) -> int | None:
        """The rank of convolutions wider than 1x1; None where convolution blocks get no adapter. LyCORIS takes
        `network_dim` where `conv_dim` is not set, Kohya's own modules take none."""
        if self.conv_dim is None and self.network_module in _CONVOLUTIONAL:
            return self.network_dim
        return self.conv_dim

    @property
    def conv_scale(self) -> float:
        """The alpha of those convolutions; where it is not set, LyCORIS takes `network_alpha`, Kohya's modules 1."""
        if self.conv_alpha is not None:
            return self.conv_alpha
        return self.network_alpha if self.network_module in _CONVOLUTIONAL else 1.0

    @property
    def lycoris_arguments(self) -> dict[str, str]:
        """The settings as LyCORIS' arguments, as text: the kind, and what differs from its defaults."""
        plain = type(self)()
        keys = [key for key in ("conv_dim", "conv_alpha", *_ARGUMENTS) if key not in self.idle_settings]
        values = {key: getattr(self, key) for key in keys if getattr(self, key) != getattr(plain, key)}
        if self.is_decomposed:  # LyCORIS' own default is by outputs
            values["wd_on_output"] = self.wd_on_output
        texts = {key: number_text(value) if isinstance(value, float) else str(value) for key, value in values.items()}
        return {"algo": self.algo, **texts}

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """The settings that this kind of adapter does not read, whatever their values are."""
        read = set(_READ_BY[self.algo])
        if self.is_lora:  # Kohya's dropout of ranks always scales the others up
            read.discard("rank_dropout_scale")
        else:
            read.discard("network_dropout")
        if self.full_matrix:
            read -= {"decompose_both", "rs_lora"}
        if not self.dora_wd:
            read.discard("wd_on_output")
        return tuple(key for key in type(self).model_fields if key in _OF_KINDS and key not in read)


class NetworkTable(LayersTable, AdapterTable):
    """`[network]`: the LoRA."""

    @property
    @override
    def conv_rank(self) -> int | None:
        """The same; a preset of LyCORIS decides whether it trains convolutions, with `network_dim` by default."""
        if self.preset is None:
            return super().conv_rank
        return (self.conv_dim or self.network_dim) if self.preset in WITH_CONVOLUTIONS else None

    @property
    @override
    def conv_scale(self) -> float:
        """The same; with a preset it is `network_alpha` by default."""
        by_preset = self.preset is not None and self.conv_alpha is None
        return self.network_alpha if by_preset else super().conv_scale

    @property
    def layer_preset(self) -> Preset | None:
        """The preset that chooses the layers; None: those of Kohya's own modules. LyCORIS' own default is full."""
        return self.preset or ("full" if self.network_module == LYCORIS else None)

    def of_size(self, rank: int | None, alpha: float | None) -> NetworkTable:
        """This table for one layer that has a rank or an alpha of its own; None: as in the others."""
        own = {"dim": rank, "alpha": alpha}
        values = {f"{front}_{key}": value for key, value in own.items() if value for front in ("network", "conv")}
        return self.model_copy(update=values)

    @property
    def in_file(self) -> NetworkTable:
        """This table with the ranks and alphas that a file has."""
        factor, conv = self.rank_factor, self.conv_rank
        if factor == 1:
            return self
        ranks = {"network_dim": factor * self.network_dim, "conv_dim": conv and factor * conv}
        alphas = {"network_alpha": factor * self.network_alpha, "conv_alpha": factor * self.conv_scale}
        return self.model_copy(update={**ranks, **alphas})
