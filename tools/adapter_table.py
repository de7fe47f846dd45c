"""Writes docs/adapters.md: the kinds of adapter that can be trained, their sizes, and the programs that read them.

python tools/adapter_table.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.adapters.kinds.base import POPULAR, AdapterKind
from engine.adapters.kinds.registry import kind_named, trained_kind
from engine.config.network import NetworkTable

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adapters.md"
HEAD = """# Kinds of adapter

`network.algo` chooses what is trained, by LyCORIS' name of the kind: `--set network.algo=lokr`. The default, `lora`, is
read by every program; with another one `--dry-run`, the review and the log name the programs that read the file.

"""
CHOICES = (
    ("LoRA", "`lora` (or `locon`)", "anything; start here", "rank 8-32, alpha half of it"),
    ("LoCon", "`lora` with `network.conv_dim`", "styles and textures: a U-Net's 3×3 convolutions are trained too",
     "`conv_dim` 4-16"),
    ("DoRA", "also `network.dora_wd`, with `lora`, `loha` or `lokr`",
     "closer to a fine-tune at the same rank; a slower step", "rank 8-16, a slightly lower learning rate"),
    ("LoCon with Tucker", "also `network.use_tucker`", "the same in a smaller file", "`conv_dim` 8-32"),
    ("LoHa", "`loha`", "several subjects or styles in one file; less of the images' composition",
     "rank 4-16, alpha 1 to rank; above 32 it tends to diverge"),
    ("LoKr", "`lokr`", "large models (FLUX): a strong effect from few numbers",
     "`factor` 4-8 large, 16 medium, -1 tiny; with `full_matrix` rank and alpha are not used"),
    ("GLoRA", "`glora`", "rare: the change also goes through the layer's own weights", "rank 4-8"),
    ("full", "`full`", "a fine-tune as a difference of weights, as large as the model", "learning rate 1e-5 or below"),
    ("OFT", "`diag-oft`", "keeps what the base knows: outputs are only rotated",
     "rank 4-32 (side of a block), `constraint` 0 or 1e-4 to 1e-3"),
    ("BOFT", "`boft`", "the same with more mixing", "a rank that divides the layers' outputs; else the least is named"),
    ("(IA)³", "`ia3`", "the smallest files, weak effect", "learning rate 5e-3 to 1e-2"),
    ("norm", "`train_norm` beside any of them", "brightness and contrast of a U-Net", ""),
)  # fmt: skip
"""Rows of the first table."""
SETTINGS = """
`network.network_module` is set accordingly: `lycoris.kohya`, where it is not one of Kohya's modules that train the kind
(`networks.loha`, `networks.lokr`). With `lycoris.kohya` the convolutions of a U-Net are trained too, as in LyCORIS:
where `conv_dim` is not set it is `network_dim`, and `conv_alpha` is `network_alpha`. (IA)³ is trained on keys, values
and the second feed-forward layer, as with LyCORIS' preset `ia3`. Presets, patterns, and ranks and rates by block work
with every kind: [docs/layers.md](layers.md).

DoRA trains the sizes of a layer's weights apart from their direction: W' = m · (W + ΔW) / ‖W + ΔW‖. `m` has a number
for each input of a layer, which ComfyUI, Forge and A1111 compute alike. `wd_on_output`, LyCORIS' own default, has
a number for each output: LyCORIS and OneTrainer read that; ComfyUI and Forge divide by ‖W‖ instead, and A1111 cannot
read it. A file of Kohya's with `dora_wd=True` keeps LyCORIS' default. `dora_scale` is saved in float32 whatever
`save_precision` is, because in bf16 its rounding would be as large as what a DoRA learns. ΔW and the norms are
computed anew in each pass, so a step takes longer than a LoRA's.

`rs_lora` scales by alpha / √rank. The file has the alpha that gives this strength in every reader. Two full matrices
of a LoKr have no scale, so `rs_lora` has no effect on them. (LyCORIS trains them with √rank and reads them without.)

`use_scalar` begins with a trained factor of 0 instead of a matrix of zeros. `rank_dropout` leaves out ranks of a LoRA,
and outputs of a layer for LoHa, LoKr and full; `module_dropout` works with every kind, `network_dropout` with plain
LoRAs only. `scale_weight_norms` limits ‖ΔW‖; for OFT and BOFT, as in LyCORIS, the norm of the blocks. A setting that a
kind does not read is reported.

GLoRA, OFT, BOFT and (IA)³ change a layer's own weights: on a quantised base they are computed from the rounded ones.
The constraint of an OFT is applied to the blocks in the file, with an alpha of 0, because programs read it differently.

## First values of a LoRA

`network.init_lora_weights`, with peft's names, for plain LoRAs and LoCons:

| value | the matrices begin as | file |
|---|---|---|
| `default` | down random (Kaiming), up zeros, as Kohya's | rank `network_dim` |
| `pissa` | the part of each layer's weight with the largest singular values | twice the rank |
| `olora` | the first columns of the weight's QR decomposition | twice the rank |
| `eva` | down: the main directions of the layer's inputs in the run's first 16 batches; up zeros | rank `network_dim` |
| `gaussian` | down normal with deviation 1 / rank, up zeros | rank `network_dim` |
| `orthogonal` | both random, in orthogonal halves of the ranks, so that their product is 0 | rank `network_dim` |

With `pissa` and `olora` the base is not changed: what is trained is the difference from the first values A₀, B₀, so
that before the first step the output is exactly the base's, and weight decay pulls towards the base. The change
s · (BA - B₀A₀) is saved as an ordinary LoRA of twice the rank and twice the alpha, with the downs [A; A - A₀] and the
ups [B - B₀, B₀], which every program reads. In this form the rounding of fp16 and bf16 is relative to the change; that
of [B, -B₀] and [A; A₀] would be relative to the weight, and often larger than the change. A file is continued by the
same setting with the same `network_dim`, or by `default` with twice that, or by `dim_from_weights`. A step costs what
one of twice the rank costs; the optimizer keeps its numbers for `network_dim` only. Dropouts drop a rank in both
halves. `scale_weight_norms` limits the norm of the whole change. The decompositions take place once, before the first
step, on the training device (randomised for large layers, in float32); FLUX on a CPU takes minutes. A quantised base
(`memory.base_precision`) is refused, since the values must be those of the exact weights.

EVA reads the run's own images, captions, noise levels and buckets, with seeds of its own: the steps that follow get the
same random numbers as without it. Layers that are one in Kohya's files share their down matrix. A resume repeats
nothing of this, and `network_weights` makes it superfluous.

`network.tlora_min_rank` (T-LoRA) masks ranks in training: at the timestep t of a sample the denoiser's LoRAs use the
first int((1 - t / 1000)^`tlora_alpha` · (rank - least)) + least ranks, so that few ranks learn composition and poses,
which are decided at high noise. With `orthogonal`, as with `rank_dropout`, the ranks that are left have a product other
than 0 in the first steps. Measures, samples and the programs that read the file use all ranks. LyCORIS'
`algo=tlora` is another kind, which only LyCORIS reads, and is not trained here.

All of these are in the metadata (`ss_network_args`); Kohya's scripts have none of them, so an export leaves them out.

## Sizes

Numbers that are trained on one layer; a file in fp16 has two bytes for each.

"""
SIZES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LoRA, rank 16", {"network_dim": 16}),
    ("DoRA, rank 16", {"network_dim": 16, "dora_wd": True}),
    ("LoHa, rank 8", {"algo": "loha", "network_dim": 8}),
    ("LoKr, full_matrix, factor -1", {"algo": "lokr", "full_matrix": True}),
    ("LoKr, full_matrix, factor 16", {"algo": "lokr", "full_matrix": True, "factor": 16}),
    ("LoKr, full_matrix, factor 8", {"algo": "lokr", "full_matrix": True, "factor": 8}),
    ("LoKr, full_matrix, factor 4", {"algo": "lokr", "full_matrix": True, "factor": 4}),
    ("LoKr, rank 8, factor 8", {"algo": "lokr", "network_dim": 8, "factor": 8}),
    ("GLoRA, rank 8", {"algo": "glora", "network_dim": 8}),
    ("OFT, rank 32", {"algo": "diag-oft", "network_dim": 32}),
    ("full", {"algo": "full"}),
    ("(IA)³", {"algo": "ia3"}),
)
LAYERS = {"1280 × 1280 (SDXL)": (1280, 1280), "3072 × 3072 (FLUX)": (3072, 3072)}
KINDS = ("LoRA", "DoRA", "LoRA with Tucker decomposition", "LoHa", "LoKr", "GLoRA", "full difference", "OFT", "BOFT",
         "(IA)³", "norm")  # fmt: skip
READERS = """
## Programs that read them

For files in Kohya's names, as they are written here. A1111 has no FLUX. `lorasmith inspect FILE` says the same for a
file, and [docs/inspect.md](inspect.md) has other namings.

"""
TAIL = """
`lorasmith lora merge` makes a LoRA of a LoHa, a LoKr or a full difference without biases; every program reads that.

This page is generated by `python tools/adapter_table.py`.
"""


def cell(kind: AdapterKind, program: str) -> str:
    """Whether a program reads a kind, and how far or why not."""
    remark = kind.remarks.get(program)
    if program in kind.readers:
        return f"yes, {remark}" if remark else "yes"
    return f"no: {kind.why_not_read(program)}"


def sizes() -> list[str]:
    """The rows of the table of sizes."""
    rows = [f"| | {' | '.join(LAYERS)} |", "|---|" + "---:|" * len(LAYERS)]
    for title, settings in SIZES:
        network = NetworkTable(**settings)
        counts = [trained_kind(network).count("attn_to_k", shape, "linear", network) for shape in LAYERS.values()]
        rows.append(f"| {title} | {' | '.join(f'{count:,}' for count in counts)} |")
    return rows


def page() -> str:
    """The page."""
    head = ["| kind | `network.algo` | for what | usual settings |", "|---|---|---|---|"]
    choices = "\n".join([*head, *(f"| {' | '.join(row)} |" for row in CHOICES)])
    readers = [f"| kind | {' | '.join(POPULAR)} |", "|---" * (len(POPULAR) + 1) + "|"]
    for name in KINDS:
        kind = kind_named(name)
        readers.append(f"| {name} | {' | '.join(cell(kind, program) for program in POPULAR)} |")
    return HEAD + choices + "\n" + SETTINGS + "\n".join(sizes()) + "\n" + READERS + "\n".join(readers) + "\n" + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
