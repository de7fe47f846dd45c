"""What every family has to do, asked of each in the same words: the suite that says when a family is complete.

A family is given to it as a `Case`: a small checkpoint. Nothing here knows a family by name.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engine.adapters.formats import COMFYUI, DIFFUSERS
from engine.adapters.inspect import inspect_lora
from engine.adapters.key_formats import file_tensors
from engine.adapters.kinds.lora import Lora as LoraKind
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.kohya_format import write_lora
from engine.adapters.network import AdapterNetwork
from engine.adapters.start_tensors import start_tensors
from engine.adapters.tools.convert import convert
from engine.adapters.tools.lora_file import read_lora
from engine.adapters.tools.requests import ConvertRequest
from engine.adapters.verify import Naming, verify_file
from engine.adapters.written_names import check_key_format, programs_for
from engine.config import RunConfig
from engine.config.kohya.export import kohya_export
from engine.config.kohya.export_dataset import ExportedSubset
from engine.config.network import NetworkTable
from engine.config.presets import list_presets
from engine.config.values import KeyFormat
from engine.estimate.disk import lora_parameters
from engine.families.base import Family, Model
from engine.families.registry import families, foreign_settings, recognise
from engine.families.resolved import ResolvedRun, family_of_settings, resolve_run
from engine.results.png_info import BaseModel, parameters, workflow
from engine.results.what_now import Lora, snippet
from engine.training.measuring import disable_adapter
from engine.types import LoraTarget, SampleRequest

RANK = 2
SIDE = 64
"""Pixels."""


@dataclass
class Case:
    """A family with a small checkpoint."""

    family: Family
    settings: Mapping[str, Any]
    """Of `[model]`, its path among them."""
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.settings["pretrained_model_name_or_path"])

    @cached_property
    def run(self) -> ResolvedRun:
        """With everything that can be trained."""
        config = RunConfig().changed(
            model=dict(self.settings),
            network={"network_dim": RANK, "network_alpha": 1.0},
            training={"text_encoder_lr": 1e-4},
            memory={"device": "cpu"},
        )
        return resolve_run(config, recognise(self.path))

    @cached_property
    def model(self) -> Model:
        """Loaded on the CPU."""
        return self.family.load(self.run.config, self.run.recognition, "cpu", "fp32", lambda _: None)

    @cached_property
    def targets(self) -> list[LoraTarget]:
        """Before layers are put in."""
        return self.model.lora_targets(conv=False)

    @cached_property
    def network(self) -> AdapterNetwork:
        """A LoRA with an effect, in every layer that takes one."""
        targets, config = self.targets, self.run.config
        network = AdapterNetwork.attach(
            LoraKind(),
            self.model.trainable,
            targets,
            network=config.network.model_copy(update={"network_train_unet_only": False}),
            folds_alpha=self.model.reader.folds_alpha,
            log=lambda _: None,
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return network

    def saved(self, folder: Path) -> Path:
        """The LoRA in a file, with the metadata of the family."""
        facts = self.family.metadata(self.run.config, self.run.recognition)
        metadata = {**facts, "ss_network_module": self.run.config.network.network_module}
        write_lora(folder / "lora.safetensors", self.network.state(), metadata, "float", print)
        return folder / "lora.safetensors"


def check_facts(case: Case) -> None:
    """Names are unique, keys exist, tables and names of layers agree with each other."""
    spec = case.family.spec
    others = [other.spec for other in families() if other.name != spec.name]
    for unique in ("name", "title", "lora_base", "version"):
        assert getattr(spec, unique) and getattr(spec, unique) not in [getattr(other, unique) for other in others]
    assert spec.version.startswith(spec.version_begins) and spec.version_begins
    known = {f"{table}.{key}" for table, keys in RunConfig().model_dump().items() for key in keys}
    assert {*spec.own_settings, *spec.companions} <= known
    assert not foreign_settings(spec).keys() & set(spec.own_settings)
    assert {proposal.preset for proposal in spec.proposals} <= {preset.name for preset in list_presets()}
    for mark in (*spec.lora_key_patterns, *vars(spec.patterns).values()):
        re.compile(mark)
    prefixes = {"lora_unet_": spec.denoiser, **{encoder.prefix: encoder.component for encoder in spec.encoders}}
    table = spec.layers.table
    for name in table.names:
        prefix = next(start for start in prefixes if name.startswith(start))
        assert table.resolve(name) == name
        if prefix == "lora_unet_":
            paths = spec.layers.paths(name)
            assert paths, name
            members = [spec.layers.address(path.replace(".", "_")) for path in paths]
            assert [(member.layer, member.member, member.members) for member in members if member] == [
                (name, number, len(paths)) for number in range(len(paths))
            ]
            assert len(spec.layers.usual_widths(len(paths), 8)) == len(paths)


def check_recognition(case: Case) -> None:
    """The checkpoint is taken for this family and for no other; what runs is settled for good."""
    taken = [family.name for family in families() if family.recognise(case.path) is not None]
    assert taken == [case.family.name]
    run = case.run
    assert run.family is case.family and run.recognition.reasons
    case.family.check(run.config, run.recognition)
    assert resolve_run(run.config, run.recognition).config == run.config
    named = run.config.changed(model={"family": case.family.name})
    assert family_of_settings(named) is case.family
    reference = case.family.reference_model()
    assert reference.layout == "configurations" and reference.prediction_type in ("epsilon", "v_prediction", "flow")
    assert resolve_run(RunConfig(), reference).family is case.family


def check_model(case: Case) -> None:
    """Shapes of what the model's verbs give, and where its blocks are."""
    model, spec = case.model, case.family.spec
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cells = SIDE // model.downscale
    with torch.no_grad(), model.on_device("vae", "text_encoder", "denoiser"):
        posterior = model.encode_pixels(pixels)
        assert posterior.shape == (2, 2 * model.latent_channels, cells, cells) and posterior.dtype == torch.float32
        latents = posterior[:, : model.latent_channels]
        decoded = model.decode_latents(latents)
        assert decoded.shape == pixels.shape and decoded.abs().max() <= 1
        text = model.encode_text(["a cat", "a dog on a mat"])
        assert all(len(tensor) == 2 for tensor in text.values())
        if tokens := model.tokens(["a cat", "a dog on a mat"]):
            assert all(len(tensor) == 2 and tensor.device.type == "cpu" for tensor in tokens.values())
            placed = {name: tensor.to(model.placement.device) for name, tensor in tokens.items()}
            again = model.encode_tokens(placed)
            assert again.keys() == text.keys() and all(torch.equal(again[name], text[name]) for name in text)
        sizes = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 2, dtype=torch.float32)
        state = torch.random.get_rng_state()
        output = model.predict(latents, torch.tensor([250.0, 500.0]), text, sizes)
        assert output.shape == latents.shape and output.dtype == torch.float32 and bool(torch.isfinite(output).all())
        assert torch.equal(torch.random.get_rng_state(), state), "predict leaves random numbers alone"
    denoiser = model.trainable[spec.denoiser]
    assert list(model.trainable)[-1] == spec.denoiser, "the denoiser comes last"
    paths = {module: f"{path}." for path, module in denoiser.named_modules()}
    assert model.blocks and all(paths[block].startswith(spec.blocks[spec.denoiser]) for block in model.blocks)
    assert len({model.vae_key, model.text_key}) == 2


def check_layers(case: Case) -> None:
    """Every layer that takes a LoRA has a name of the family, and the estimate of the disk knows its size."""
    spec, targets = case.family.spec, case.targets
    prefixes = {"lora_unet_": spec.denoiser, **{encoder.prefix: encoder.component for encoder in spec.encoders}}
    for target in targets:
        prefix = next(start for start in prefixes if target.kohya_name.startswith(start))
        assert prefixes[prefix] == target.component and target.is_denoiser == (target.component == spec.denoiser)
        assert all(case.model.trainable[target.component].get_submodule(path) is not None for path in target.paths)
    names = [target.kohya_name for target in targets]
    assert len(set(names)) == len(names)
    assert all(any(mark in name for mark in spec.always_adapted) for name in names)
    sources = case.family.sources(case.run.recognition)
    assert spec.denoiser in sources and "vae" not in sources
    inside = [module for module in case.network.modules if module.target.component in sources]
    real = sum(parameter.numel() for module in inside for parameter in module.parameters)
    assert real <= lora_parameters(case.run) <= 3 * real, "on the safe side"


def check_saved_file(case: Case, folder: Path) -> None:
    """A saved LoRA passes the trainer's own check, `inspect` knows what it is, and a run can start from it."""
    path = case.saved(folder)
    difference = verify_file(path, case.network, case.model.trainable, case.model.reader)
    assert difference is not None and difference < 1e-3
    report = inspect_lora(path)
    assert report.problems == [] and report.no_start is None and sum(report.modules.values()) == len(case.targets)
    assert read_lora(path).base == case.family.spec.lora_base
    facts = case.family.metadata(case.run.config, case.run.recognition)
    for key in ("ss_v2", "ss_base_model_version", "modelspec.architecture", "modelspec.implementation"):
        assert report.metadata.get(key, facts[key]) == facts[key]


def check_other_names(case: Case, folder: Path) -> None:
    """Files in diffusers' and ComfyUI's names pass the same checks, and hold the same numbers."""
    spec, facts = case.family.spec, case.family.metadata(case.run.config, case.run.recognition)
    state, formats = case.network.state(), list[KeyFormat](["diffusers", "comfy"])
    for key_format in formats:
        path = folder / f"{key_format}.safetensors"
        tensors, more = file_tensors(case.network, spec, key_format)
        write_lora(path, tensors, {**facts, **more}, "fp16", print)
        naming = Naming(key_format, spec.lora_base)
        difference = verify_file(path, case.network, case.model.trainable, case.model.reader, naming)
        assert difference is not None and difference < 5e-3
        report = inspect_lora(path)
        assert report.problems == [] and report.no_start is None
        assert report.naming == {"diffusers": DIFFUSERS, "comfy": COMFYUI}[key_format]
        config = case.run.config.changed(saving={"key_format": key_format})
        assert set(report.readers) >= set(programs_for(key_format, config, spec)) and check_key_format(config, spec)
        start = start_tensors(path, LoraKind(), spec.lora_base, case.targets, case.model.trainable, print)
        assert start.keys() == state.keys()
        assert all(torch.equal(tensor.half(), start[key].half()) for key, tensor in state.items())


KINDS: dict[str, dict[str, Any]] = {
    "loha": {},
    "lokr": {"factor": 4, "use_scalar": True},
    "lora": {"use_tucker": True, "conv_dim": RANK},
    "dora": {"algo": "lora", "dora_wd": True, "rs_lora": True},
    "dora of a lokr": {"algo": "lokr", "dora_wd": True, "wd_on_output": True, "conv_dim": RANK},
    "glora": {},
    "full": {},
    "diag-oft": {"rescaled": True, "constraint": 0.01},
    "boft": {"network_dim": 64},
    "ia3": {},
}
"""Kinds of adapter by `network.algo`, or a name, with further settings."""
FEW_KINDS = ("loha", "lokr", "ia3", "dora")


def check_kinds(case: Case, folder: Path) -> None:
    """A few of `KINDS`, of each form: with two matrices, a Kronecker product, from the layer's own weight, and with an
    offset that is computed from it."""
    _check_kinds(case, folder, FEW_KINDS)


def check_other_kinds(case: Case, folder: Path) -> None:
    """The rest of them."""
    _check_kinds(case, folder, [kind for kind in KINDS if kind not in FEW_KINDS])


def _check_kinds(case: Case, folder: Path, kinds: Sequence[str]) -> None:
    """With norm layers where the family has some: a new adapter changes nothing, it gets gradients, a trained file
    passes the trainer's check in Kohya's and in ComfyUI's names, and `inspect` finds no fault in it."""
    model = case.family.load(case.run.config, case.run.recognition, "cpu", "fp32", lambda _: None)
    for algo in kinds:
        settings = KINDS[algo]
        table = {"algo": algo, "network_dim": RANK, "network_alpha": 1.0, "train_norm": True, **settings}
        network = NetworkTable(network_module="lycoris.kohya", **table)
        kind = trained_kind(network)
        conv = kind.takes_convolutions(network)
        targets = model.lora_targets(conv=conv) + model.norm_targets(conv=conv)
        if not any(kind.takes(target.kohya_name) for target in targets):
            continue
        made = AdapterNetwork.attach(kind, model.trainable, targets, network=network, log=lambda _: None)
        new = model.reader.denoise(model.trainable)
        new.square().mean().backward()
        assert any(outer.grad is not None and outer.grad.any() for module in made.modules for outer in module.outer)
        with torch.no_grad():
            for number, parameter in enumerate(made.parameters()):
                generator = torch.Generator().manual_seed(number)
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
            assert not torch.allclose(model.reader.denoise(model.trainable), new), algo
            with disable_adapter(made):
                assert torch.equal(model.reader.denoise(model.trainable), new), algo
        metadata = case.family.metadata(case.run.config, case.run.recognition)
        for key_format in list[KeyFormat](["kohya", "comfy"]):
            path, spec = folder / f"{algo}-{key_format}.safetensors", case.family.spec
            write_lora(path, file_tensors(made, spec, key_format)[0], metadata, "float", print)
            naming = Naming(key_format, spec.lora_base)
            difference = verify_file(path, made, model.trainable, model.reader, naming)
            assert difference is not None and difference < 1e-3, (algo, difference)
            report = inspect_lora(path)
            assert (report.problems, report.no_start) == ([], None), algo
            assert report.kinds.keys() <= {kind.name, *kind.also, "norm"}
            assert ("norm" in report.kinds) == bool(model.norm_targets(conv=conv))
        for module in made.modules:
            for layer_path, layer in zip(module.target.paths, module.layers, strict=True):
                model.trainable[module.target.component].set_submodule(layer_path, layer.base_layer)


def check_conversion(case: Case, folder: Path) -> None:
    """Into diffusers' names and back, nothing is lost."""
    path = case.saved(folder)

    def made(source: Path, to: Any, name: str) -> Path:
        convert(ConvertRequest(file=str(source), out=str(folder / name), to=to), lambda *_: None)
        return folder / name

    back = made(made(path, "diffusers", "diffusers.safetensors"), "kohya", "back.safetensors")
    before, after = read_lora(path), read_lora(back)
    assert before.layers.keys() == after.layers.keys()
    for name, layer in before.layers.items():
        assert torch.equal(layer.factors["down"], after.layers[name].factors["down"])
        assert torch.equal(layer.factors["up"], after.layers[name].factors["up"])
        assert layer.scale == after.layers[name].scale


def check_export(case: Case) -> None:
    """Files for Kohya's script, where there is one."""
    trainer = case.family.spec.kohya
    if trainer is None:
        return
    made = kohya_export(case.run.config, trainer, [ExportedSubset("images", 2)], ["a cat"], case.run.rule_notes)
    table = tomllib.loads(made.files["training.toml"])
    written = {key: value for section in table.values() for key, value in section.items()}
    assert written["network_module"] == trainer.network_module and written["network_dim"] == RANK
    assert not written.keys() & trainer.foreign
    assert trainer.script in made.files["train.sh"] and trainer.script in made.files["train.py"]


def check_elsewhere(case: Case) -> None:
    """What is written for programs that draw with the LoRA."""
    request = SampleRequest("a cat", width=SIDE, height=SIDE)
    base = BaseModel.of(case.run.recognition, "ab" * 32, case.run.config)
    assert "Sampler: " in parameters(request, (SIDE, SIDE), base, [])
    graph = workflow(request, (SIDE, SIDE), base, [])
    assert any(node["class_type"] == "KSampler" for node in graph.values()) and json.dumps(graph)
    program = snippet(Lora(Path("x.safetensors"), "zed", case.family.name, str(case.path), "zed"))
    assert case.family.spec.inference.pipeline in program
    compile(program, "snippet", "exec")


CHECKS: tuple[Callable[..., None], ...] = (
    check_facts,
    check_recognition,
    check_model,
    check_layers,
    check_saved_file,
    check_other_names,
    check_kinds,
    check_conversion,
    check_export,
    check_elsewhere,
)
"""In this order: the LoRA that one puts in, the next ones use."""
MORE_CHECKS: tuple[Callable[..., None], ...] = (check_other_kinds,)
"""More of the same, for `make soak`."""
