"""The text stage of the demo base: a small CLIP tokenizer and a warm-up of the text encoder.

The warm-up asks the text encoder's pooled output for every attribute that the caption names, so that the U-Net starts
with words that already mean something.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from demo_captions import LABELS, describe, label_index
from demo_training import Clock, Team, atomic_save, learning_rate, seeded, set_rate
from demo_world import sample_scene
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MERGES = 700
WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"
Pieces = tuple[str, ...]


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes, in CLIP's order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent byte-pair merges of the counted words; the last piece of a word ends in "</w>"."""
    split: dict[str, Pieces] = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = {word: join_pair(pieces, best) for word, pieces in split.items()}
    return merges


def join_pair(pieces: Pieces, pair: tuple[str, str]) -> Pieces:
    """The pieces with each occurrence of the pair joined."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def write_tokenizer(folder: Path) -> None:
    """Learn a byte-level BPE on drawn captions and write it in CLIP's `vocab.json`/`merges.txt` form."""
    words: Counter[str] = Counter()
    for index in range(6000):
        rng = seeded(2_000_000 + index)
        words.update(describe(sample_scene(rng), rng)[0].replace(",", " ,").split())
    merges = learn_merges(words, MERGES)
    letters = byte_letters()
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {piece: i for i, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {**special, "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    config["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer, learnt on the first call."""
    folder = work / "tokenizer"
    if not (folder / "special_tokens_map.json").exists():
        write_tokenizer(folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, captions: list[str], length: int) -> Tensor:
    """Token ids (n, length), padded with the end token and cut."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = batch["input_ids"]
    return ids


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A three-layer `CLIPTextModel` of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def warm_up(team: Team, work: Path, minutes: float, steps: int, batch: int = 32, peak: float = 2e-3) -> None:
    """Classify each caption's named attributes from the pooled output; writes `work/text.pt`."""
    tokenizer = load_tokenizer(work)
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer)
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in LABELS.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW([{"params": parameters, "peak": peak}], lr=peak, weight_decay=1e-2)
    clock, results = Clock(minutes, steps), []
    share = clock.share()
    while share < 1.0:
        set_rate(optimiser, learning_rate(1.0, share, clock.step))
        rng = seeded(3_000_000 + 2 * clock.step + team.rank)
        scenes = [sample_scene(rng) for _ in range(batch)]
        captions_named = [describe(scene, rng) for scene in scenes]
        pooled = encoder(input_ids=token_ids(tokenizer, [caption for caption, _ in captions_named], 40)).pooler_output
        loss, right, total = torch.zeros(()), 0, 0
        for name, head in heads.items():
            rows = [i for i, (_, names) in enumerate(captions_named) if name in names]
            if rows:
                labels = torch.tensor([label_index(scenes[i], name) for i in rows])
                logits = head(pooled[rows])
                loss = loss + F.cross_entropy(logits, labels, reduction="sum") / batch
                right, total = right + int((logits.argmax(1) == labels).sum()), total + len(rows)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        share = team.average(parameters, clock.share())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        clock.step += 1
        results.append((float(loss.detach()), right / total))
        if team.leads and clock.log_due():
            means = np.mean(results, axis=0)
            print(f"text step {clock.step} share {share:.3f} loss {means[0]:.3f} right {means[1]:.3f}", flush=True)
            results = []
    if team.leads:
        atomic_save({"text_encoder": encoder.state_dict()}, work / "text.pt")
