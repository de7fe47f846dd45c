"""The measures of a file as columns of a table: title, unit, explanation, and the text of a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.results.measures import Measures

NOTHING = "–"
"""Not measured."""
BEST, FAVOURITE = "●", "★"
"""The signs of the file that is recommended and of those that a person has marked, on every screen and page."""
SIGNS = {"undertrained": "↓", "good": "✓", "overtrained": "↑", "undecidable": "?"}
"""The sign of each verdict, shown next to the word."""


@dataclass(frozen=True)
class Column:
    """One measure."""

    name: str
    title: str
    unit: str
    explanation: str
    """What it is, and which value is good."""
    value: Callable[[Measures], float | None]
    decimals: int = 2
    heading: str = ""
    """Of a narrow table; empty: the title."""

    def text(self, measures: Measures) -> str:
        """The value with its unit."""
        value = self.value(measures)
        if value is None:
            return NOTHING
        number = value * 100 if self.unit == "%" else value
        if not abs(number) < 1e6:
            return f"{number:.1e}"
        return f"{number:z.{self.decimals}f}{' %' if self.unit == '%' else ''}"


def _burn(key: str) -> Callable[[Measures], float | None]:
    return lambda measures: measures.burn.get(key)


COLUMNS = (
    Column(
        "validation_loss", "Validation loss", "MSE",
        "Mean squared error on the images that were set aside, at fixed timesteps and noise. Lower is better.",
        lambda measures: measures.validation_loss, 4,
    ),
    Column(
        "learned", "Learned", "%",
        "How much lower the loss on validation images is than the base model's. Higher is better until it falls again.",
        lambda measures: measures.learned, 1,
    ),
    Column(
        "train_learned", "Learned (training)", "%",
        "How much lower the loss on training images is than the base model's, in a run without validation images. It "
        "also rises while the run learns by heart.",
        lambda measures: measures.train_gain if measures.learned is None else None, 1,
    ),
    Column(
        "gap", "Gap", "%",
        "Generalisation gap: the gain on training images less the gain on validation images. Near 0 is good; "
        "a growing gap is learning by heart.",
        lambda measures: measures.gap, 1,
    ),
    Column(
        "leakage", "Leakage", "×",
        "How far predictions move for everyday prompts, relative to captions of the training. 0 is not at all, "
        "1 as far.",
        lambda measures: measures.leakage,
    ),
    Column(
        "drift", "Drift", "%",
        "How far predictions for everyday prompts moved, relative to their size. Above 60 % other subjects suffer.",
        lambda measures: measures.drift, 0,
    ),
    Column(
        "bleed", "Bleed", "%",
        "How far predictions for everyday prompts moved, next to what those prompts still change. Above 55 % other "
        "subjects suffer.",
        lambda measures: measures.bleed, 0,
    ),
    Column(
        "response", "Prompt response", "%",
        "How much the parts of a caption besides the trigger still change the prediction. 100 % is as in the base "
        "model; lower is a LoRA that no longer listens.",
        lambda measures: measures.response, 0, "Response",
    ),
    Column(
        "shift", "Shift", "×",
        "How far predictions moved from the base model's, relative to their size.",
        lambda measures: measures.shift,
    ),
    Column(
        "saturation", "Saturation", "×",
        "Burn: the colours of the samples, relative to base samples and training images. 1 is alike.",
        _burn("saturation"),
    ),
    Column(
        "clipped", "Clipped", "×",
        "Burn: the share of pixels that are pure black or white, relative to the same images. 1 is alike.",
        _burn("clipped"),
    ),
    Column(
        "contrast", "Local contrast", "×",
        "Burn: the contrast between neighbouring pixels, relative to the same images. 1 is alike.",
        _burn("contrast"),
    ),
    Column(
        "detail", "Detail", "×",
        "Burn: the energy in high frequencies, relative to the same images. 1 is alike; far below is clay.",
        _burn("detail"),
    ),
    Column(
        "copying", "Copying", "×",
        "How like a sample is to its nearest training image: 0 as two training images are to each other, 1 a copy.",
        lambda measures: measures.copying,
    ),
    Column(
        "latent_copying", "Copying, latents", "×",
        "The same in the latents of the VAE, which see more than the hash.",
        lambda measures: measures.latent_copying,
    ),
    Column(
        "latent_base", "Copying, base", "×",
        "Copying in latents of the base model's sample at the same prompt and seed: what is not the LoRA's doing.",
        lambda measures: measures.latent_base,
    ),
)  # fmt: skip


BY_NAME = {column.name: column for column in COLUMNS}


def learned_column(measures: Iterable[Measures]) -> Column:
    """How much was learned: on validation images, in a run without any on training images."""
    rows = list(measures)
    on_training = BY_NAME["train_learned"]
    has_validation = any(row.learned is not None for row in rows)
    return BY_NAME["learned"] if has_validation or all(on_training.value(row) is None for row in rows) else on_training


def measured_columns(measures: Iterable[Measures]) -> list[Column]:
    """The columns in which at least one of `measures` has a value."""
    rows = list(measures)
    return [column for column in COLUMNS if any(column.value(row) is not None for row in rows)]
