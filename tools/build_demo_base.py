"""Build the demo base: a tiny text-to-image model with the Stable Diffusion 1.5 classes, trained on `demo_world`.

The stages are seeded and resumable, with a checkpoint every two minutes: `vae`, `tune` (its decoder alone, on slightly
noisy latents), `latents`, `text` (tokenizer, and a warm-up of the text encoder on the attributes a caption names),
`unet` (U-Net and text encoder together) and `export`, which writes a diffusers folder in fp16.

    python tools/build_demo_base.py --work /tmp/base --out engine/assets/demo_base
    python tools/build_demo_base.py --work /tmp/base --stage vae --minutes 25

With `adopt` in an empty work folder the stages `tune` and `unet` continue from an exported base, with a new optimiser:

    python tools/build_demo_base.py --work /tmp/more --stage adopt
    python tools/build_demo_base.py --work /tmp/more --stage unet --minutes 60 --rate 0.6
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from demo_text import load_tokenizer, warm_up
from demo_training import run_team
from demo_unet import adopt_unet, encode_images, load_latents, load_trained, new_scheduler, train_unet
from demo_vae import adopt_vae, load_vae, train_vae, vae_images

STAGES = ("vae", "tune", "latents", "text", "unet", "export")
MINUTES = {"vae": 32.0, "tune": 4.0, "text": 1.5, "unet": 41.0}
PARTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def forget_origin(folder: Path) -> None:
    """Drop `_name_or_path` from the configs below `folder`."""
    for path in folder.rglob("config.json"):
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def export(work: Path, out: Path) -> None:
    """Write the diffusers folder (a README in it stays)."""
    out.mkdir(parents=True, exist_ok=True)
    unet, text_encoder, _ = load_trained(work)
    vae = load_vae(work)
    vae.register_to_config(scaling_factor=round(load_latents(work)[2], 5))
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for name, part in parts.items():
        shutil.rmtree(out / name, ignore_errors=True)
        part.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(out / name)
    new_scheduler().save_pretrained(out / "scheduler")
    shutil.copytree(work / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", **PARTS}
    index |= {"feature_extractor": [None, None], "safety_checker": [None, None], "image_encoder": [None, None]}
    index["requires_safety_checker"] = False
    (out / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    forget_origin(out)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"exported {total / 1e6:.2f} MB", flush=True)


def adopt(folder: Path, work: Path) -> None:
    """Fill an empty work folder from an exported base; latents follow from its VAE.

    Raises:
        FileExistsError: the work folder holds a training that would be lost.
    """
    if any(work.glob("*.pt")):
        raise FileExistsError(f"{work} is not empty")
    shutil.copytree(folder / "tokenizer", work / "tokenizer")
    adopt_vae(folder / "vae", work)
    adopt_unet(folder, work)


def run_stage(stage: str, args: argparse.Namespace) -> None:
    """Run one stage to the end of its budget."""
    work: Path = args.work
    minutes: float = args.minutes or MINUTES.get(stage, 0.0)
    if stage == "vae":
        vae_images(work)
        run_team(args.threads, work, train_vae, work, minutes, args.steps)
    elif stage == "tune":
        run_team(args.threads, work, train_vae, work, minutes, args.steps, True)
    elif stage == "latents":
        run_team(args.threads, work, encode_images, work)
    elif stage == "text":
        load_tokenizer(work)
        run_team(args.threads, work, warm_up, work, minutes, args.steps)
    elif stage == "unet":
        run_team(args.threads, work, train_unet, work, minutes, args.steps, args.rate)
    elif stage == "adopt":
        adopt(args.out, work)
    else:
        export(work, args.out)


def main() -> None:
    """Run one stage or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "adopt", "all"), default="all")
    parser.add_argument("--minutes", type=float, default=0.0, help="training minutes of each stage run (0: its own)")
    parser.add_argument("--steps", type=int, default=0, help="training steps of each stage run (0: by minutes)")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates of the unet stage")
    parser.add_argument("--threads", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=Path("engine/assets/demo_base"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        run_stage(stage, args)


if __name__ == "__main__":
    main()
