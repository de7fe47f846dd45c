"""The check of a saved file: good ones pass and leave no trace, each kind of damage is named."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from engine.adapters.key_formats import file_tensors
from engine.adapters.kohya_format import write_lora
from engine.adapters.verify import Naming, verify_file
from engine.families.unet import reader
from engine.families.unet.reader import SD15Reader
from engine.families.unet.spec import SD15_SPEC
from tests.refusals import refused


@pytest.fixture
def saved(tiny, filled, tmp_path):
    """A filled network and its file."""
    network = tiny.attach(conv=True, conv_dim=2)
    filled(network)
    path = tmp_path / "x.safetensors"
    write_lora(path, network.state(), {}, "fp16", print)
    return network, path


@pytest.mark.parametrize(("precision", "largest"), [("float", 1e-6), ("fp16", 1e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("conv", [False, True])
def test_a_good_file_passes(tiny, filled, tmp_path, precision, largest, conv):
    network = tiny.attach(conv=conv, conv_dim=2)
    filled(network)
    path = tmp_path / "x [1].safetensors"
    write_lora(path, network.state(), {}, precision, print)
    difference = verify_file(path, network, tiny.components, SD15Reader())
    assert difference is not None
    assert 0 <= difference < largest


@pytest.mark.parametrize("rates", [(1e-3, 0.0), (0.0, 1e-4)])
def test_a_file_for_one_part_passes(tiny, filled, tmp_path, rates):
    network = tiny.attach(rates=rates)
    filled(network)
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    assert verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_passes(make, filled, tmp_path, dtype):
    tiny = make(dtype=dtype)
    network = tiny.attach()
    filled(network)
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    assert verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader()) < 0.05


def test_different_ranks_and_alphas_pass(make, filled, tmp_path):
    weights = {}
    for index, module in enumerate(make().attach(conv=True, conv_dim=1).modules):
        rank, name = 1 + index % 4, module.target.kohya_name
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, *module.down.shape[1:])
        weights[f"{name}.lora_up.weight"] = torch.randn(len(module.up), rank, *module.up.shape[2:]) * 0.1
        weights[f"{name}.alpha"] = torch.tensor(float(1 + index % 3))
    tiny = make()
    network = tiny.attach(conv=True, weights=weights, dim_from_weights=True)
    assert "Alpha differs from module to module" in " ".join(tiny.messages)
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    assert verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader()) < 1e-2


def named(network, path, key_format, change=lambda tensors, metadata: None):
    """A file in other names, with a change."""
    tensors, metadata = file_tensors(network, SD15_SPEC, key_format)
    change(tensors, metadata)
    write_lora(path, tensors, metadata, "fp16", print)
    return path, Naming(key_format, "SD 1.5")


@pytest.mark.parametrize("key_format", ["diffusers", "comfy"])
def test_other_names_with_ranks_and_alphas_of_their_own_pass(make, filled, tmp_path, key_format):
    """The alphas are no numbers of fp16."""
    weights = {}
    for index, module in enumerate(make().attach(conv=True, conv_dim=1).modules):
        rank, name = 1 + index % 4, module.target.kohya_name
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, *module.down.shape[1:])
        weights[f"{name}.lora_up.weight"] = torch.randn(len(module.up), rank, *module.up.shape[2:]) * 0.1
        weights[f"{name}.alpha"] = torch.tensor(1.7) if index % 3 else torch.tensor(3.0)
    tiny = make()
    # diffusers reads the alphas of Kohya's names wrongly, of its own rightly
    folds = key_format == "diffusers"
    network = tiny.attach(conv=True, weights=weights, dim_from_weights=True, folds_alpha=folds)
    path, naming = named(network, tmp_path / "x.safetensors", key_format)
    assert verify_file(path, network, tiny.components, SD15Reader(), naming) < 1e-2
    assert ("diffusers uses the most frequent" in " ".join(tiny.messages)) != folds


def halve_alphas(tensors, metadata):
    table = json.loads(metadata["lora_adapter_metadata"])
    alphas = {key: value / 2 for key, value in table.items() if key.endswith("lora_alpha")}
    metadata["lora_adapter_metadata"] = json.dumps(table | alphas)


def swap_first(tensors, metadata):
    first, second = [key for key in tensors if "attn1" in key and key.endswith(("lora_B.weight", "lora_up.weight"))][:2]
    tensors[first], tensors[second] = tensors[second], tensors[first]


def drop_first(tensors, metadata):
    name = next(key for key in tensors if "attn1" in key).partition(".lora_")[0]
    for key in [key for key in tensors if key.startswith(name)]:
        del tensors[key]


def add_module(tensors, metadata):
    first = next(key for key in tensors if "attn1" in key).partition(".lora_")[0]
    for key in [key for key in tensors if key.startswith(first)]:
        tensors[key.replace("blocks.0", "blocks.7", 1)] = tensors[key].clone()


@pytest.mark.parametrize(
    ("key_format", "change", "parts"),
    [
        ("diffusers", halve_alphas, ("60 modules", "text_encoder.encoder.layers.0.self_attn.k_proj")),
        ("diffusers", swap_first, ("2 modules", ".attn1.")),
        ("comfy", swap_first, ("2 modules", ".attn1.")),
        ("diffusers", drop_first, ("3 of", "attn1_to_q")),
        ("comfy", drop_first, ("3 of", "attn1_to_q")),
        ("diffusers", add_module, ("layers that are not trained",)),
    ],
)
def test_a_wrong_file_in_other_names_is_refused(tiny, filled, tmp_path, key_format, change, parts):
    network = tiny.attach()
    filled(network)
    path, naming = named(network, tmp_path / "x.safetensors", key_format, change)
    with refused("written-lora-wrong", *parts):
        verify_file(path, network, tiny.components, SD15Reader(), naming)


def _snapshot(tiny):
    modules = {
        f"{part}.{name}": (module, module.training, set(vars(module)))
        for part, component in tiny.components.items()
        for name, module in component.named_modules()
    }
    parameters = {
        f"{part}.{name}": (parameter, parameter.data_ptr(), parameter.requires_grad, parameter.detach().clone())
        for part, component in tiny.components.items()
        for name, parameter in component.named_parameters()
    }
    return modules, parameters, torch.random.get_rng_state()


def _same(before, after):
    assert before[0].keys() == after[0].keys()
    for name, (module, training, attributes) in before[0].items():
        assert after[0][name][0] is module
        assert after[0][name][1:] == (training, attributes), name
    assert before[1].keys() == after[1].keys()
    for name, (parameter, address, gradient, value) in before[1].items():
        assert after[1][name][0] is parameter
        assert after[1][name][1:3] == (address, gradient), name
        assert torch.equal(after[1][name][3], value), name
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", ["", "load", "forward"])
def test_training_notices_nothing(make, filled, tmp_path, monkeypatch, dtype, fails):
    tiny = make(dtype=dtype)
    network = tiny.attach(network_dropout=0.1, rank_dropout=0.1, module_dropout=0.1)
    filled(network)
    tiny.unet.enable_gradient_checkpointing()
    tiny.unet.train()
    tiny.text_encoder.train()
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    if fails == "load":
        monkeypatch.setattr(tiny.unet.__class__, "load_lora_adapter", lambda *rest, **named: 1 / 0)
    if fails == "forward":
        monkeypatch.setattr(SD15Reader, "denoise", lambda self, components: 1 / 0)
    before = _snapshot(tiny)
    if fails:
        with pytest.raises(ZeroDivisionError):
            verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader())
    else:
        verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader())
    _same(before, _snapshot(tiny))
    assert torch.is_grad_enabled()


def test_a_model_prepared_by_accelerate_passes_and_is_left_alone(tiny, filled, tmp_path):
    network = tiny.attach()
    filled(network)
    network.rely_on_autocast(True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    accelerator.prepare_model(tiny.unet)
    assert inspect.ismethod(tiny.unet.__dict__["forward"])
    calls = []
    tiny.unet.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    before = _snapshot(tiny)
    assert verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader()) < 1e-3
    _same(before, _snapshot(tiny))
    assert not calls


def test_training_steps_are_the_same_with_and_without_checks(make, filled, tmp_path):
    results = []
    for check in (False, True):
        tiny = make()
        network = tiny.attach(network_dropout=0.2)
        network.train()
        optimizer = torch.optim.AdamW(network.parameters())
        torch.manual_seed(4)
        for _ in range(3):
            tiny.forward().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if check:
                write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
                verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader())
        results.append(network.state())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def _rewritten(path, change):
    """The file with other tensors, and with the hash that belongs to them."""
    tensors = load_file(path)
    change(tensors)
    write_lora(path, tensors, {}, "fp16", print)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda tensors: tensors.pop("lora_unet_mid_block_attentions_0_proj_in.alpha"), "lacks 1 of"),
        (lambda tensors: tensors.update({"lora_unet_nowhere.alpha": torch.tensor(1.0)}), "also has 1 of"),
        (
            lambda tensors: tensors.update({"lora_unet_mid_block_attentions_0_proj_in.alpha": torch.ones(1)}),
            "in another shape, 1 of",
        ),
        (
            lambda tensors: tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"].add_(0.1),
            "unet.mid_block.attentions.0.proj_in",
        ),
        (
            lambda tensors: tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"].mul_(2),
            "text_encoder.encoder.layers.0.mlp.fc1",
        ),
    ],
)
def test_a_file_that_differs_fails(tiny, saved, change, part):
    network, path = saved
    _rewritten(path, change)
    with refused("written-lora-wrong", part):
        verify_file(path, network, tiny.components, SD15Reader())


def test_a_flipped_bit_fails(tiny, saved):
    network, path = saved
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with refused("written-lora-wrong", "another hash"):
        verify_file(path, network, tiny.components, SD15Reader())


def test_a_module_that_diffusers_does_not_find_fails(tiny, filled, tmp_path, monkeypatch):
    network = tiny.attach()
    filled(network)
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "fp16", print)
    usual = reader._SD15Loader.load_lora_weights

    def forgetful(self, tensors, **named):
        usual(self, {key: value for key, value in tensors.items() if "mid_block" not in key}, **named)

    monkeypatch.setattr(reader._SD15Loader, "load_lora_weights", forgetful)
    with refused("written-lora-wrong", "loaded by diffusers", "unet.mid_block"):
        verify_file(tmp_path / "x.safetensors", network, tiny.components, SD15Reader())


def _with_outputs(monkeypatch, *factors):
    """Multiply the outputs of the forwards one after the other."""
    usual, calls = SD15Reader.denoise, []

    def changed(self, components):
        calls.append(1)
        return usual(self, components) * factors[len(calls) - 1]

    monkeypatch.setattr(SD15Reader, "denoise", changed)
    return calls


def test_an_output_that_differs_fails(tiny, saved, monkeypatch):
    network, path = saved
    calls = _with_outputs(monkeypatch, 1, 1.2, 1)
    with refused("written-lora-wrong", "output differs by"):
        verify_file(path, network, tiny.components, SD15Reader())
    assert len(calls) == 3


def test_a_difference_that_the_files_rounding_explains_passes(tiny, saved, monkeypatch):
    network, path = saved
    before = _snapshot(tiny)
    scales = [module.scale for module in network.modules]
    calls = _with_outputs(monkeypatch, 1.2, 1, 1)
    assert verify_file(path, network, tiny.components, SD15Reader()) == pytest.approx(1 / 6, rel=1e-2)
    assert len(calls) == 3
    _same(before, _snapshot(tiny))
    assert [module.scale for module in network.modules] == scales


@pytest.mark.parametrize(("base", "passes"), [(float("nan"), True), (1, False)])
def test_an_output_that_is_not_finite(tiny, saved, monkeypatch, base, passes):
    network, path = saved
    _with_outputs(monkeypatch, float("nan"), float("nan"), base)
    if passes:
        assert verify_file(path, network, tiny.components, SD15Reader()) is None
    else:
        with refused("written-lora-wrong", "NaN or infinity"):
            verify_file(path, network, tiny.components, SD15Reader())


def test_a_diverged_adapter_fails_and_the_good_file_stays(tiny, saved):
    network, path = saved
    good = path.read_bytes()
    with torch.no_grad():
        for module in network.modules:  # some attention kernels hide what is infinite in queries and keys
            module.up.fill_(1e30)
            module.down.fill_(1e30)
    messages = []
    with refused("written-lora-wrong", "NaN or infinity"):
        write_lora(
            path,
            network.state(),
            {},
            "fp16",
            messages.append,
            check=lambda temporary: verify_file(temporary, network, tiny.components, SD15Reader()),
        )
    assert path.read_bytes() == good
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "is written in fp32" in messages[0]


@pytest.mark.parametrize("conv", [False, True])
def test_a_pipeline_of_diffusers_gives_what_the_adapter_in_memory_gives(make, filled, tmp_path, conv):
    trained, fresh = make(), make()
    network = trained.attach(conv=conv, conv_dim=2, network_alpha=3.0)
    filled(network)
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "float", print)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipeline = StableDiffusionPipeline(
        vae,
        fresh.text_encoder,
        None,
        fresh.unet,
        DDIMScheduler(steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )
    base = fresh.forward()
    pipeline.load_lora_weights(tmp_path / "x.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(fresh.forward(), trained.forward())
    assert (fresh.forward() - base).abs().max() > 0.1
