"""What one writes where, with a file's own names; and the program for diffusers runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.families.resolved import resolve_without_model
from engine.results.what_now import Lora, a1111_prompt, in_short, lora_of, snippet, uses


def lora(**known: object) -> Lora:
    facts: dict[str, object] = {
        "path": Path("/loras/ann.safetensors"), "trigger": "ohwx", "family": "sd15", "base": "/m/base.safetensors",
        "prompt": "photo of ohwx",
    }  # fmt: skip
    return Lora(**{**facts, **known})  # type: ignore[arg-type]


def test_each_program_has_its_folder_and_words() -> None:
    comfyui, a1111, diffusers = uses(lora())
    assert (comfyui.folder, a1111.folder, diffusers.folder) == ("models/loras", "models/Lora", "")
    assert "lora_name ann.safetensors, strength_model 0.8, strength_clip 0.8" in comfyui.lines[0]
    assert a1111.lines == ("Prompt: photo of ohwx <lora:ann:0.8>",)
    assert diffusers.lines == tuple(snippet(lora()).splitlines())


def test_special_files() -> None:
    assert "strength_clip has no effect" in uses(lora(text_encoder=False))[0].lines[0]
    assert "rename the file first" in uses(lora(path=Path("/x/a:b.safetensors")))[1].lines[1]
    assert "\x1b" not in " ".join(in_short(lora(path=Path("/x/a\x1bb.safetensors"), prompt="\x1b[2J")))


FILE, HALF = "/m/a.safetensors", "torch_dtype=torch.float16"
HUB = "'black-forest-labs/FLUX.1-dev', torch_dtype=torch.bfloat16"


@pytest.mark.parametrize(
    ("family", "base", "line"),
    [
        ("sd15", FILE, f"StableDiffusionPipeline.from_single_file({FILE!r}, {HALF})"),
        ("sd15", "/m/folder", "StableDiffusionPipeline.from_pretrained('/m/folder'"),
        ("sdxl", FILE, f"StableDiffusionXLPipeline.from_single_file({FILE!r}"),
        ("flux", FILE, f"FluxPipeline.from_pretrained({HUB})"),
        ("flux", "/m/flux", "FluxPipeline.from_pretrained('/m/flux'"),
        ("unknown", FILE, f"DiffusionPipeline.from_pretrained({FILE!r}"),
    ],
)
def test_the_class_fits_the_family(family: str, base: str, line: str) -> None:
    assert line in snippet(lora(family=family, base=base))


@pytest.mark.parametrize("odd", ["it's", 'a "b"', "back\\slash", "new\nline", "'); import os; ("])
def test_names_stay_texts_in_the_program(odd: str) -> None:
    known = lora(path=Path(f"/x/{odd}.safetensors"), prompt=odd, base=odd)
    tree = ast.parse(snippet(known))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert [f"{odd}.safetensors" in texts, odd in texts] == [True, True]
    assert [type(node).__name__ for node in tree.body] == [
        "Import",
        "ImportFrom",
        "Assign",
        "Expr",
        "Expr",
        "Assign",
        "Expr",
    ]


@pytest.mark.parametrize(
    ("settings", "prompt", "text_encoder"),
    [
        (
            {"sampling": {"sample_prompts": ["photo of {trigger}, smiling --d 3 --w 512"]}},
            "photo of ann, smiling",
            True,
        ),
        ({"sampling": {"sample_prompts": "prompts.txt"}, "training": {"text_encoder_lr": 0}}, "ann", False),
        ({"network": {"network_train_unet_only": True}}, "ann", False),
        ({"memory": {"cache_text_encoder_outputs": True}}, "ann", False),
        ({"model": {"family": "flux"}}, "ann", False),
        ({"model": {"family": "flux"}, "training": {"text_encoder_lr": 1e-5}}, "ann", True),
    ],
)
def test_what_the_run_knows(settings: dict[str, dict[str, object]], prompt: str, text_encoder: bool) -> None:
    config = RunConfig().changed(saving={"output_name": "ann"}, **settings)
    used = lora_of(resolve_without_model(config), Path("/x/ann.safetensors"), "sd15")
    assert (used.trigger, used.prompt, used.text_encoder) == ("ann", prompt, text_encoder)


@pytest.mark.parametrize(
    ("key_format", "unread"),
    [("kohya", [False] * 3), ("diffusers", [True, True, False]), ("comfy", [False, True, True])],
)
def test_a_program_that_does_not_read_the_names_is_reported(key_format: str, unread: list[bool]) -> None:
    config = RunConfig().changed(saving={"output_name": "ann", "key_format": key_format})
    used = lora_of(resolve_without_model(config), Path("/x/ann.safetensors"), "sd15")
    lines = [use.lines[0] for use in uses(used)]
    assert ["lora convert ann.safetensors --to kohya" in line for line in lines] == unread
    assert ("lora convert" in " ".join(in_short(used))) == any(unread[:2])


@pytest.mark.parametrize(
    ("algo", "loaded"),
    [("lora", [True] * 3), ("lokr", [True, True, False]), ("ia3", [False, True, False])],
)
def test_a_program_that_does_not_read_the_kind_gets_no_recipe(algo: str, loaded: list[bool]) -> None:
    config = RunConfig().changed(saving={"output_name": "ann"}, network={"algo": algo})
    used = lora_of(resolve_without_model(config), Path("/x/ann.safetensors"), "sd15")
    recipes = ("Node Load LoRA", "Prompt: ", "load_lora_weights")
    for use, recipe, is_loaded in zip(uses(used), recipes, loaded, strict=True):
        text = "\n".join(use.lines)
        assert (recipe in text) == is_loaded and (is_loaded or "does not load this file" in text), use.program
        assert use.is_loaded == is_loaded
    ast.parse(snippet(used))
    assert a1111_prompt(used).endswith(" <lora:ann:0.8>")
    short = "\n".join(in_short(used))
    assert ("copy ann.safetensors into models/loras" in short) == loaded[0]
