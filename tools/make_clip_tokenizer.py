"""Make engine/assets/clip_tokenizer from the vocabulary in the PyPI package open_clip_torch (MIT).

    pip download --no-deps open_clip_torch
    python tools/make_clip_tokenizer.py open_clip_torch-*.whl

The vocabulary is that of CLIP (Radford et al. 2021): 256 bytes, the same 256 as ends of words, one token a merge, and
the two special tokens, 49408 in all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zipfile
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "engine" / "assets" / "clip_tokenizer"
VOCABULARY = "open_clip/bpe_simple_vocab_16e6.txt.gz"
LICENSE = "licenses/LICENSE"
MERGES = 49408 - 2 * 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """The 256 letters that represent bytes in a byte-level BPE, in vocabulary order: printable Latin-1 first, as
    itself; the others follow as U+0100 and up (GPT-2's encoder)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(0x100 + n) for n in range(others)]


def main() -> None:
    """Read the wheel, write vocab.json, merges.txt, tokenizer_config.json and the licence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as wheel:
        lines = gzip.decompress(wheel.read(VOCABULARY)).decode().split("\n")
        licence = next(name for name in wheel.namelist() if name.endswith(LICENSE))
        licence_text = wheel.read(licence).decode()
    merges = lines[1 : MERGES + 1]
    letters = byte_letters()
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
        START,
        END,
    ]
    assert len(set(tokens)) == len(tokens) == 49408
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False, indent=0)
    (arguments.out / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
    (arguments.out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "LICENSE").write_text(licence_text, encoding="utf-8")


if __name__ == "__main__":
    main()
