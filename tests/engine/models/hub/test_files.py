"""Which files of a repository are fetched."""

from __future__ import annotations

import pytest

from engine.models.hub.files import RemoteFile, needed_files, tokenizer_only
from tests.refusals import refused

SD15 = [
    "README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.safetensors",
    "feature_extractor/preprocessor_config.json", "scheduler/scheduler_config.json",
    "safety_checker/config.json", "safety_checker/model.safetensors", "safety_checker/model.fp16.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    *(f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")),
    *(
        f"{part}/{name}"
        for part in ("unet", "vae")
        for name in ("config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin",
                     "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors",
                     "diffusion_pytorch_model.non_ema.safetensors")
    ),
]  # fmt: skip
SHARDS = [f"transformer/diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
FLUX = [
    "model_index.json", "flux1-dev.safetensors", "ae.safetensors", "transformer/config.json", *SHARDS,
    "transformer/diffusion_pytorch_model.safetensors.index.json", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
    "text_encoder_2/config.json", "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors", "text_encoder_2/model.safetensors.index.json",
    "tokenizer/vocab.json", "tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json",
]  # fmt: skip


def chosen(names: list[str], name: str | None = None) -> set[str]:
    return {
        file.name
        for file in needed_files("a/b", [RemoteFile(file, 1, file) for file in names], ["unet", "transformer"], name)
    }


def test_half_the_size_where_there_is_a_variant() -> None:
    assert chosen(SD15) == {
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }  # fmt: skip


def test_the_full_weights_where_there_is_none() -> None:
    plain = chosen([name for name in SD15 if "fp16" not in name])
    assert {name for name in plain if name.endswith(".safetensors")} == {
        "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def test_weights_in_several_files_come_with_their_index() -> None:
    assert chosen(FLUX) == set(FLUX) - {"flux1-dev.safetensors", "ae.safetensors"}


def test_a_captioner_and_a_single_checkpoint() -> None:
    blip = ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.txt", "model.safetensors"]
    assert chosen([*blip, "pytorch_model.bin", "tf_model.h5", "README.md"]) == set(blip)
    assert chosen(["README.md", "pony.safetensors", "pony.ckpt"]) == {"pony.safetensors"}
    assert chosen([*SD15], "v1-5-pruned-emaonly.safetensors") == {"v1-5-pruned-emaonly.safetensors"}


@pytest.mark.parametrize(
    ("names", "name", "code", "parts"),
    [
        (["model_index.json", "prior/config.json"], None, "hub-without-denoiser", ()),
        (
            [name for name in SD15 if not name.startswith("vae/diff")] + ["vae/x.bin"],
            None, "hub-pickles-only", ("its vae",),
        ),
        (["model_index.json", "unet/config.json"], None, "hub-without-safetensors", ("its unet",)),
        (
            ["config.json", "preprocessor_config.json", "pytorch_model.bin"],
            None, "hub-pickles-only", ("its weights",),
        ),
        (["a.safetensors", "b.safetensors"], None, "hub-file-ambiguous", ("2 ", "a/b/a.safetensors")),
        (["model.ckpt"], None, "hub-pickles-only", ()),
        (["README.md"], None, "hub-without-safetensors", ()),
        (["a.safetensors"], "c.safetensors", "hub-file-unknown", ("c.safetensors", "a.safetensors")),
    ],
)  # fmt: skip
def test_what_cannot_be_used(names: list[str], name: str | None, code: str, parts: tuple[str, ...]) -> None:
    with refused(code, *parts) as refusal:
        chosen(names, name)
    assert "  " not in str(refusal.value)


def test_no_tokenizer() -> None:
    with refused("hub-without-tokenizer"):
        tokenizer_only("a/b", [RemoteFile("tokenizer_config.json", 1, "x")])


def test_a_captioner_with_a_chat_template_and_a_tagger() -> None:
    chat = ["config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer.model"]
    weights = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert chosen([*chat, *weights, "pytorch_model.bin", "README.md", "flax_model.msgpack"]) == {*chat, *weights}
    tagger = {"model.onnx", "selected_tags.csv"}
    assert chosen([*tagger, "config.json", "model.safetensors", "model.msgpack", "sw_jax_cv_config.json"]) == tagger
