"""Deliberate differences from Kohya's scripts, and which of them `kohya_exact` reverts.

docs/kohya.md is generated from it. A difference that is switched has its test in `tests/`, under `kohya_exact`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One difference."""

    what: str
    ours: str
    kohyas: str
    switched: bool
    """`kohya_exact` does it as Kohya."""
    why_not: str = ""
    """Why `kohya_exact` does not change it."""


def _switched(what: str, ours: str, kohyas: str) -> Difference:
    return Difference(what, ours, kohyas, True)


def _kept(what: str, ours: str, kohyas: str, why_not: str) -> Difference:
    return Difference(what, ours, kohyas, False, why_not)


_NO_NUMBER = "no number of the training depends on it"
_CHANCE = "the same chances, other random numbers: theirs depend on the number of worker processes"
_THEY_STOP = "the scripts stop there"
DIFFERENCES = (
    _switched("EXIF orientation", "the image is turned", "it is used as the sensor recorded it"),
    _switched("transparent parts", "are put on `alpha_background`", "show whatever colour is under them, mostly black"),
    _switched("kinds of files", "also TIFF, HEIC, `.jpe`, `.jfif`, `.apng`, and names in mixed case",
          "png, jpg, jpeg, webp, bmp, avif, in all lower or all upper case"),
    _switched("resize_interpolation nearest, bilinear, bicubic",
          "Pillow's filters; bilinear and bicubic look at every pixel when shrinking",
          "OpenCV's kernels, which leave pixels out; equal here, bicubic except for one level in 0.2 % of the values"),
    _switched("resize_interpolation area where a side grows", "Pillow's bilinear filter",
          "OpenCV's own mixture of area and linear, up to 40 levels away"),
    _switched("shrinking by exactly two", "the mean of four pixels, halves rounded to even",
          "halves rounded up: one level more in an eighth of the values"),
    _kept("shrinking by area, other sizes", "exact", "parts of a pixel below a thousandth are left out: one level in "
           "0.02 % of the values", "the numbers of earlier runs, and too small to matter"),
    _switched("tags joined again after they were shuffled or dropped", "by `caption_separator`",
          "by a comma and a space, whatever the separator is"),
    _switched("caption files", "of `.txt` and `.caption` the other is found too; the first line that is not blank; a "
          "byte order mark is no text", "only `caption_extension`; the first line, blank or not; the mark is text"),
    _switched("captions whose encoder outputs are cached", "prefix, suffix and separators are applied first",
          "the caption as it was read"),
    _switched("cached latents", "sampled from the VAE's distribution in each step", "sampled once per image, and kept"),
    _switched("validation images", "never trained on", "by the rounding of two shares one image may be in both"),
    _switched("last update of an epoch, with gradient accumulation", "the mean of the batches that are left",
          "their sum, divided by the full number of batches: a smaller step"),
    _switched("zero terminal SNR with min-SNR or another weight by SNR", "weighed by the rescaled schedule",
          "weighed by the schedule before it was rescaled"),
    _switched("fp16, bf16", "the base computes in it throughout; its norm layers sum in fp32 inside of their kernels",
          "by autocast: outputs of norm layers are fp32 and rounded by the next layer"),
    _switched("warmup_stable_decay without `lr_decay_steps`", "the last tenth decays", "nothing decays"),
    _switched("a warm-up in steps, with several processes", "takes so many updates",
          "the schedule moves once for each process, so that it takes fewer"),
    _switched("FLUX: `min_timestep`, `max_timestep`", "the noise levels are squeezed into them", "no effect"),
    _switched("FLUX: `model_prediction_type` of a file of Kohya's", "raw, also where it is absent or sigma_scaled",
          "sigma_scaled where it is absent, which is compared with a target of another kind"),
    _switched("`v_parameterization`, `zero_terminal_snr` of a file of Kohya's", "absent: read from the checkpoint",
          "absent: off; here a checkpoint that is marked as a v model then stops the run"),
    _switched("AdamW8bit where bitsandbytes is not installed", "fused AdamW, with a note", "an error"),
    _switched("epochs of a GUI file whose `max_train_steps` is 0", "whole epochs",
          "steps counted without the short batches of buckets, which cuts the last epoch"),
    _kept("random numbers", "each is derived from the seed and its purpose, the same on every machine",
           "generators that continue through the complete training, some in worker processes", _CHANCE),
    _kept("seed that is not given", "42", "another one each time", "a run can be repeated"),
    _kept("`validation_seed` that is not given", "0, for both halves", "each half is shuffled by itself, so that "
           "they overlap at random", "chance cannot be repeated"),
    _kept("order of folders and files", "sorted by name", "folders as the file system lists them",
           "two copies of a folder would train differently"),
    _kept("validation loss", "all images, fixed noise, unweighted, captions without randomness",
           "weighted as the training loss; for FLUX at random timesteps", _NO_NUMBER),
    _kept("average of the loss", "a moving average", "the newest loss of each place in an epoch",
           _NO_NUMBER),
    _kept("caches", "keyed by content: an edited image, caption or model is never served stale",
           "by file name, and sizes of images are read from the names of caches", "nobody wants a stale cache"),
    _kept("state and resume", "at the exact place, with the bytes of an uninterrupted run",
           "the count of steps starts over, an epoch is repeated in part", "the plan of steps would not be kept"),
    _kept("a loss or latent that is not a number", "the step is skipped, after some the run goes back; a latent is an "
           "error", "trained on with NaN, or with zeros", "the file would be worthless"),
    _kept("nothing to train on", "an error with a code", "a line in the log, and exit code 0", _NO_NUMBER),
    _kept("a plain folder of images", "is trained on, with round(400 / images) repeats",
           "only `<repeats>_<name>` folders are", _THEY_STOP),
    _kept("an empty caption file", "the class tokens, as without a file", "an assertion", _THEY_STOP),
    _kept("bucket_no_upscale and a side below one step", "enlarged to one step", "a division by zero", _THEY_STOP),
    _kept("shuffled or dropped captions with cached text outputs", "every caption of the run is encoded beforehand",
           "an assertion", _THEY_STOP),
    _kept("neither buckets nor cached latents", "images are scaled to cover the size, then cropped",
           "they are only cropped, and a smaller one is an error", "it needs `random_crop` and large images"),
    _switched("`face_crop_aug_range` with cached latents", "latents are not cached", "no effect"),
    _kept("full_fp16, full_bf16", "the LoRA stays in fp32", "the LoRA is in half precision too",
           "small updates are rounded to nothing"),
    _kept("fp8_base", "8-bit floats with a scale for each block of weights", "a plain cast",
           "it is less accurate"),
    _kept("AdamW", "torch's fused kernel", "torch's default kernel", "the same formula, rounded differently"),
    _kept("FLUX: `split_qkv`", "the file has three or four times the alpha, as it has so many times the rank",
           "the alpha of one layer, so that readers apply a third or a quarter of the change", "the file would be too "
           "weak"),
    _switched("SDXL: two different rates in `text_encoder_lr`", "each text encoder has its own", "the first is that of "
          "both"),
    _kept("patterns of layers that match none (`network_reg_dims`, `network_reg_lrs`)", "an error",
           "are ignored", "a misspelt pattern would train something else"),
    _kept("a text encoder or U-Net whose rate is 0", "gets no LoRA", "gets one of zeros that never change",
           "the same effect in a larger file"),
    _kept("a file of steps due at the last one", "not written: the last file is the same", "written as well",
           _NO_NUMBER),
    _kept("weights in the prompts of samples, `(word:1.3)`", "with weighted_captions; without it brackets are text",
           "always", _NO_NUMBER),
    _kept("sample images", "at the training's resolution, with seed 1", "at 512 px, with another seed each time",
           _NO_NUMBER),
)  # fmt: skip
