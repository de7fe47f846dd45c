"""What other programs read in an image: A1111's text and ComfyUI's workflow, taken apart as those programs do it."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from PIL import Image

from engine import __version__
from engine.config.values import Sampler
from engine.results.png_info import (
    A1111_SAMPLERS,
    COMFYUI_SAMPLERS,
    BaseModel,
    LoraUse,
    parameters,
    png_info,
    workflow,
)
from engine.types import SampleRequest

SIZE = (512, 640)
REQUEST = SampleRequest("a robot, smiling", "blurry, text", 512, 640, seed=7, steps=20, scale=6.5, sampler="euler_a")
BASE = BaseModel("sd15", "v1-5.safetensors", "ab" * 32)
ROBOT = LoraUse("robot-000004.safetensors", 0.8, "12345678" * 8)
FILES = {"flux.clip_l": "clip_l.safetensors", "flux.t5xxl": "t5.safetensors", "flux.ae": "ae.sft"}
FLUX = BaseModel("flux", "flux1-dev.safetensors", "cd" * 32, companions=FILES)
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_as_a1111(text: str) -> dict[str, str]:
    """Prompt, negative prompt and the pairs of the last line, by A1111's rules: the last line counts when it has three
    pairs or more; the negative prompt begins with its own line; a value in quotes is JSON."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    assert len(pairs) >= 3
    texts = {"Prompt": [], "Negative prompt": []}  # type: dict[str, list[str]]
    part = "Prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            part, line = "Negative prompt", line.removeprefix("Negative prompt:")
        texts[part].append(line.strip())
    values = {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}
    return {key: "\n".join(text) for key, text in texts.items()} | values


def check_as_comfyui(nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The inputs of each kind of node, once every link leads to a node that is there."""
    for node in nodes.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in nodes and isinstance(value[1], int)
    return {node["class_type"]: node["inputs"] for node in nodes.values()}


def test_a1111_reads_everything() -> None:
    values = read_as_a1111(parameters(REQUEST, SIZE, BASE, [ROBOT]))
    assert values == {
        "Prompt": "a robot, smiling <lora:robot-000004:0.8>",
        "Negative prompt": "blurry, text",
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "6.5",
        "Seed": "7",
        "Size": "512x640",
        "Model hash": "ababababab",
        "Model": "v1-5",
        "Lora hashes": "robot-000004: 123456781234",
        "Version": f"LoRA Smith {__version__}",
    }


def test_the_base_alone_names_no_lora_and_no_negative_prompt() -> None:
    values = read_as_a1111(parameters(SampleRequest("a robot"), SIZE, BaseModel("sd15", "model"), []))
    assert values["Prompt"] == "a robot" and values["Negative prompt"] == ""
    assert not {"Lora hashes", "Model hash", "Clip skip"} & values.keys()


def test_names_with_commas_and_quotes_come_back() -> None:
    base = BaseModel("sd15", 'odd, "name": 1.safetensors', clip_skip=2)
    values = read_as_a1111(parameters(REQUEST, SIZE, base, [ROBOT, LoraUse("b.safetensors", -1, "f" * 64)]))
    assert values["Model"] == 'odd, "name": 1'
    assert values["Clip skip"] == "2"
    assert values["Lora hashes"] == "robot-000004: 123456781234, b: ffffffffffff"
    assert values["Prompt"].endswith("<lora:robot-000004:0.8> <lora:b:-1>")


def test_every_sampler_has_a_name_there() -> None:
    names = {name.removeprefix("k_") for name in Sampler.__args__}  # type: ignore[attr-defined]
    assert names == A1111_SAMPLERS.keys() == COMFYUI_SAMPLERS.keys()


def test_comfyui_draws_with_the_lora() -> None:
    nodes_by_kind = check_as_comfyui(workflow(REQUEST, SIZE, BASE, [ROBOT]))
    assert list(nodes_by_kind) == [
        "CheckpointLoaderSimple", "LoraLoader", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode",
        "SaveImage",
    ]  # fmt: skip
    assert nodes_by_kind["CheckpointLoaderSimple"] == {"ckpt_name": "v1-5.safetensors"}
    lora = nodes_by_kind["LoraLoader"]
    assert (lora["lora_name"], lora["strength_model"], lora["strength_clip"]) == ("robot-000004.safetensors", 0.8, 0.8)
    sampler = nodes_by_kind["KSampler"]
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (7, 20, 6.5)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("euler_ancestral", "normal")
    assert nodes_by_kind["EmptyLatentImage"] == {"width": 512, "height": 640, "batch_size": 1}


def test_comfyui_gets_both_prompts_by_the_lora_and_several_loras_in_a_chain() -> None:
    nodes = workflow(REQUEST, SIZE, BASE, [ROBOT, LoraUse("b.safetensors", 0.5)])
    sampler = next(node["inputs"] for node in nodes.values() if node["class_type"] == "KSampler")
    positive, negative = (nodes[sampler[part][0]]["inputs"] for part in ("positive", "negative"))
    assert (positive["text"], negative["text"]) == ("a robot, smiling", "blurry, text")
    last = nodes[sampler["model"][0]]["inputs"]
    assert positive["clip"] == [sampler["model"][0], 1]
    assert last["lora_name"] == "b.safetensors"
    assert nodes[last["model"][0]]["inputs"]["lora_name"] == "robot-000004.safetensors"


def test_comfyui_gets_v_prediction_and_clip_skip() -> None:
    base = BaseModel("sd15", "anime.safetensors", clip_skip=2, v_prediction=True, zero_snr=True)
    nodes = workflow(REQUEST, SIZE, base, [])
    nodes_by_kind = check_as_comfyui(nodes)
    assert (
        nodes_by_kind["ModelSamplingDiscrete"]["sampling"] == "v_prediction"
        and nodes_by_kind["ModelSamplingDiscrete"]["zsnr"]
    )
    assert nodes_by_kind["CLIPSetLastLayer"]["stop_at_clip_layer"] == -2
    assert nodes[nodes_by_kind["KSampler"]["model"][0]]["class_type"] == "ModelSamplingDiscrete"
    assert nodes[nodes_by_kind["CLIPTextEncode"]["clip"][0]]["class_type"] == "CLIPSetLastLayer"


def test_flux_has_its_own_nodes_and_guidance() -> None:
    request = SampleRequest("a robot", scale=1.0, guidance=3.5, sampler="ddim")
    nodes_by_kind = check_as_comfyui(workflow(request, SIZE, FLUX, [ROBOT]))
    assert nodes_by_kind["UNETLoader"]["unet_name"] == "flux1-dev.safetensors"
    clip = nodes_by_kind["DualCLIPLoader"]
    assert (clip["clip_name1"], clip["clip_name2"], clip["type"]) == ("t5.safetensors", "clip_l.safetensors", "flux")
    assert nodes_by_kind["VAELoader"]["vae_name"] == "ae.sft"
    assert nodes_by_kind["FluxGuidance"]["guidance"] == 3.5
    assert (nodes_by_kind["KSampler"]["cfg"], nodes_by_kind["KSampler"]["sampler_name"]) == (1.0, "euler")
    text = read_as_a1111(parameters(request, SIZE, FLUX, [ROBOT]))
    assert (text["Sampler"], text["CFG scale"], text["Distilled CFG Scale"]) == ("Euler", "1", "3.5")


@pytest.mark.parametrize("prompt", ["a robot", "ein Gemälde, ロボット"])
def test_the_chunks_come_back_from_a_file(prompt: str) -> None:
    request = SampleRequest(prompt)
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG", pnginfo=png_info(request, (8, 8), BASE, [ROBOT]))
    info = Image.open(data).info
    assert info["parameters"] == parameters(request, (8, 8), BASE, [ROBOT])
    assert json.loads(info["prompt"]) == workflow(request, (8, 8), BASE, [ROBOT])
    assert info["prompt"].isascii(), "ComfyUI takes the bytes of a tEXt chunk as they are"
