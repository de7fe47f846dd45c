"""LoRA layers in a model: which, how initialised, what they compute, what they give back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.config.schema import NetworkTable, RunConfig
from engine.training.groups import parameter_groups, rate_groups
from tests.refusals import refused

FIXTURES = Path(__file__).parent / "fixtures"


def _module(network, name):
    return next(module for module in network.modules if module.target.kohya_name.endswith(name))


def test_new_adapter_changes_nothing_and_leaves_the_base_alone(tiny):
    before = tiny.forward()
    base = {name: value.clone() for name, value in tiny.unet.named_parameters()}
    state = torch.random.get_rng_state()
    network = tiny.attach()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(tiny.forward(), before)
    now = {
        name.replace(".base_layer", ""): value for name, value in tiny.unet.named_parameters() if "lora_" not in name
    }
    assert now.keys() == base.keys()
    assert all(torch.equal(now[name], base[name]) and not now[name].requires_grad for name in base)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapter_is_float32_on_a_half_precision_base(make, dtype):
    tiny = make(dtype=dtype)
    network = tiny.attach()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert tiny.unet.conv_in.weight.dtype == dtype
    assert tiny.forward().dtype == dtype


def test_initialisation_is_kohyas_and_only_of_the_seed(make):
    first = make().attach(seed=3)
    torch.manual_seed(99)
    second, other = make().attach(seed=3).state(), make().attach(seed=4).state()
    state = first.state()
    assert all(torch.equal(state[key], second[key]) for key in state)
    for module in first.modules:
        bound = module.down.shape[1:].numel() ** -0.5  # kaiming uniform with a = √5
        assert bound * 0.5 < module.down.abs().max().item() <= bound
        assert not module.up.any()
    assert not torch.equal(state[next(iter(state))], other[next(iter(other))])


def test_effect_is_up_down_alpha_over_rank(tiny, filled):
    network = tiny.attach(conv=True, network_dim=4, network_alpha=3.0, conv_dim=2, conv_alpha=5.0)
    filled(network)
    generator = torch.Generator().manual_seed(1)
    linear = _module(network, "attn1_to_q")
    inputs = torch.randn(2, 5, linear.down.shape[1], generator=generator)
    base = linear.layers[0].get_base_layer()(inputs)
    torch.testing.assert_close(linear.layers[0](inputs) - base, inputs @ (linear.up @ linear.down).T * (3 / 4))
    convolution = _module(network, "down_blocks_0_downsamplers_0_conv")
    image = torch.randn(1, convolution.down.shape[1], 6, 6, generator=generator)
    base = convolution.layers[0].get_base_layer()(image)
    kernel = torch.einsum("or,rikl->oikl", convolution.up[:, :, 0, 0], convolution.down) * (5 / 2)
    expected = functional.conv2d(image, kernel, stride=2, padding=1)
    torch.testing.assert_close(convolution.layers[0](image) - base, expected, rtol=1e-4, atol=1e-5)


def test_convolution_ranks(tiny):
    network = tiny.attach(conv=True, conv_dim=2)
    sizes = {(module.target.kind, module.rank, module.alpha) for module in network.modules}
    assert sizes == {("linear", 4, 2.0), ("conv1x1", 4, 2.0), ("conv3x3", 2, 1.0)}
    assert _module(network, "resnets_0_conv1").down.shape[2:] == (3, 3)
    assert _module(network, "resnets_0_conv1").up.shape[2:] == (1, 1)


def test_convolutions_without_conv_dim_get_none(tiny):
    network = tiny.attach(conv=True)
    assert {module.target.kind for module in network.modules} == {"linear", "conv1x1"}


@pytest.mark.parametrize(
    ("rates", "switches", "parts", "message"),
    [
        ((1e-3, 1e-4), {}, {"text_encoder", "unet"}, ""),
        ((1e-3, 0.0), {}, {"unet"}, "No LoRA in the text encoder: its learning rate is 0."),
        ((0.0, 1e-4), {}, {"text_encoder"}, "No LoRA in the U-Net: its learning rate is 0."),
        ((1e-3, 1e-4), {"network_train_unet_only": True}, {"unet"}, "network_train_unet_only is set"),
        ((1e-3, 1e-4), {"network_train_text_encoder_only": True}, {"text_encoder"}, "network_train_text_encoder_only"),
    ],
)
def test_parts_that_are_not_trained_get_none(tiny, rates, switches, parts, message):
    network = tiny.attach(rates=rates, **switches)
    assert set(network.module_counts()) == parts
    assert message in " ".join(tiny.messages)
    for part in {"text_encoder", "unet"} - parts:
        assert not any("lora" in name for name, _ in tiny.components[part].named_modules())


def test_nothing_to_train_is_refused(tiny):
    with refused("nothing-trained"):
        tiny.attach(rates=(0.0, 1e-4), network_train_unet_only=True)


def test_parameter_groups(tiny):
    network = tiny.attach()
    groups = parameter_groups(network, RunConfig().changed(training={"unet_lr": 1e-3, "text_encoder_lr": 1e-4}))
    assert [(group["name"], group["lr"]) for group in groups] == [("text_encoder", 1e-4), ("unet", 1e-3)]
    assert [len(group["params"]) for group in groups] == [24, 96]
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    parameters = [parameter for part in tiny.components.values() for parameter in part.parameters()]
    assert trained == {id(parameter) for parameter in parameters if parameter.requires_grad}


def test_gradients_reach_every_module(tiny):
    network = tiny.attach()
    with torch.no_grad():
        for module in network.modules:
            module.up.fill_(0.01)
    tiny.forward().square().mean().backward()
    lacking = [module.target.path for module in network.modules if module.down.grad is None or module.up.grad is None]
    assert lacking == []


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.3])
def test_state_comes_back_exactly(make, filled, alpha):
    first, second = make(), make()
    network = first.attach(conv=True, conv_dim=3, network_dim=12, network_alpha=alpha)
    filled(network)
    other = second.attach(conv=True, conv_dim=3, network_dim=12, network_alpha=alpha, seed=8, weights=network.state())
    assert torch.equal(first.forward(), second.forward())
    assert [module.scale for module in other.modules] == [module.scale for module in network.modules]
    assert second.messages == []
    assert all(torch.equal(value, other.state()[key]) for key, value in network.state().items())


def test_state_is_a_copy(tiny):
    network = tiny.attach()
    state = network.state()
    with torch.no_grad():
        network.modules[0].down.add_(1)
    key = f"{network.modules[0].target.kohya_name}.lora_down.weight"
    assert not torch.equal(state[key], network.state()[key])


def test_ranks_and_modules_from_a_file(make, filled):
    source = make()
    targets = [module.target for module in source.attach(conv=True, conv_dim=2, network_dim=6).modules]
    weights = {}
    for index, target in enumerate(targets):
        if index % 3:  # some modules are absent, ranks differ
            layer = dict(source.components[target.component].named_modules())[target.path].get_base_layer()
            rank, shape = 1 + index % 5, layer.weight.shape
            up_shape = (shape[0], rank) + (1,) * (len(shape) - 2)
            weights[f"{target.kohya_name}.lora_down.weight"] = torch.randn(rank, *shape[1:])
            weights[f"{target.kohya_name}.lora_up.weight"] = torch.randn(up_shape)
            if index % 2:
                weights[f"{target.kohya_name}.alpha"] = torch.tensor(float(index))
    tiny = make()
    network = tiny.attach(conv=True, weights=weights, dim_from_weights=True)
    expected = {target.kohya_name: 1 + index % 5 for index, target in enumerate(targets) if index % 3}
    assert {module.target.kohya_name: module.rank for module in network.modules} == expected
    for index, target in enumerate(targets):
        if index % 3:
            alpha = float(index) if index % 2 else expected[target.kohya_name]
            assert _module(network, target.kohya_name).scale == pytest.approx(alpha / expected[target.kohya_name])
    assert all(torch.equal(value, network.state()[key]) for key, value in weights.items())


def test_a_partly_fitting_file_is_reported(make):
    state = make().attach().state()
    weights = {key: value for key, value in state.items() if "attn2" not in key}
    weights |= {key.replace("lora_unet_", "lora_unet_other_"): value for key, value in state.items() if "attn2" in key}
    for key in weights:
        if key.endswith("alpha"):
            weights[key] = torch.tensor(4.0)
    tiny = make()
    network = tiny.attach(weights=weights)
    text = "\n".join(tiny.messages)
    assert "lacks 16 modules" in text
    assert "16 modules of the LoRA" in text and "do not exist" in text
    assert "Alpha 4 instead of 2 in 44 modules" in text
    assert Counter(module.scale for module in network.modules) == {1.0: 44, 0.5: 16}


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        (
            lambda state: {
                key: value.repeat(2, *[1] * (value.dim() - 1)) if "down" in key else value
                for key, value in state.items()
            },
            "lora-wrong-shape",
            "lora_down.weight",
        ),
        (
            lambda state: {key: value for key, value in state.items() if "lora_up" not in key},
            "lora-incomplete",
            "lora_up",
        ),
        (
            lambda state: {
                key.replace("lora_unet", "lora_unet_x").replace("lora_te", "lora_te_x"): value
                for key, value in state.items()
            },
            "lora-without-modules",
            "60 modules",
        ),
        *(
            (lambda state, key=key: {key: torch.zeros(1)}, "lora-unknown-key", key)
            for key in (
                "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",
                "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a",
                "something",
            )
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(make, change, code, part):
    state = make().attach().state()
    with refused(code, part):
        make().attach(weights=change(state))


def test_dim_from_weights_needs_a_file(tiny):
    with refused("dim-from-weights-without-file"):
        tiny.attach(dim_from_weights=True)


def test_linear_weights_load_into_a_convolution_of_one_cell(make, filled):
    network = make().attach()
    filled(network)
    state = network.state()
    flat = {key: value.flatten(1) if value.dim() == 4 else value for key, value in state.items()}
    loaded = make().attach(weights=flat).state()
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())


def test_max_norm(tiny, filled):
    network = tiny.attach(conv=True, conv_dim=2)
    filled(network)
    expected = {}
    for module in network.modules:
        expected[module.target.path] = ((module.up.flatten(1) @ module.down.flatten(1)) * module.scale).norm().item()
    limit = sorted(expected.values())[len(expected) // 2]
    over = sum(norm > limit for norm in expected.values())
    scaled, mean, largest = network.apply_max_norm(limit * 1.0001)
    assert abs(scaled - over) <= 1
    assert largest == pytest.approx(limit, rel=1e-3)
    assert mean == pytest.approx(sum(min(norm, limit) for norm in expected.values()) / len(expected), rel=1e-3)
    for module in network.modules:
        now = ((module.up.flatten(1) @ module.down.flatten(1)) * module.scale).norm().item()
        assert now == pytest.approx(min(expected[module.target.path], limit), rel=1e-3)
    assert network.apply_max_norm(limit * 1.001)[0] == 0


def test_autocast_without_the_casts_gives_the_same(make, filled):
    tiny = make()
    network = tiny.attach()
    filled(network)
    with torch.autocast("cpu", torch.bfloat16):
        usual = tiny.forward()
        network.rely_on_autocast(True)
        spared = tiny.forward()
    assert torch.equal(usual, spared)


def _dropping(tiny, filled, **dropouts):
    network = tiny.attach(network_dim=8, **dropouts)
    filled(network)
    network.train()
    return _module(network, "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q")


def _down_output(module, inputs):
    """What reaches the up projection."""
    seen = []
    handle = module.layers[0].lora_B["default"].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    module.layers[0](inputs)
    handle.remove()
    return seen[0] if seen else None


def test_network_dropout_drops_values_of_the_down_projection(tiny, filled):
    module = _dropping(tiny, filled, network_dropout=0.25)
    inputs = torch.randn(64, 32, 16)
    torch.manual_seed(0)
    output, full = _down_output(module, inputs), inputs @ module.down.T
    dropped = output == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(output[~dropped], full[~dropped] / 0.75)


@pytest.mark.parametrize("shape", [(512, 16), (512, 3, 16), (512, 16, 2, 2)])
def test_rank_dropout_drops_complete_ranks_of_a_sample(tiny, filled, shape):
    name = "to_q" if len(shape) < 4 else "proj_in"
    network = tiny.attach(network_dim=8, rank_dropout=0.4)
    filled(network)
    network.train()
    module = _module(network, name)
    inputs = torch.randn(shape)
    torch.manual_seed(0)
    output = _down_output(module, inputs)
    full = inputs @ module.down.flatten(1).T if len(shape) < 4 else functional.conv2d(inputs, module.down)
    ranks = 1 if len(shape) == 4 else -1
    kept = (output != 0).movedim(ranks, 1).flatten(2) if len(shape) > 2 else (output != 0)[..., None]
    assert torch.equal(kept.all(-1), kept.any(-1))
    assert 1 - kept.float().mean().item() == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(output[output != 0], full[output != 0] / 0.6, rtol=1e-4, atol=1e-5)


def test_module_dropout_skips_the_module_and_its_gradient(tiny, filled):
    module = _dropping(tiny, filled, module_dropout=0.3)
    inputs = torch.randn(1, 2, 16)
    base = module.layers[0].get_base_layer()(inputs)
    torch.manual_seed(0)
    skipped = 0
    for _ in range(400):
        module.down.grad = None
        output = module.layers[0](inputs)
        if torch.equal(output, base):
            assert not output.requires_grad
            skipped += 1
        else:
            output.sum().backward()
            assert module.down.grad is not None
    assert skipped / 400 == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropouts_act_in_training_only_and_follow_the_global_seed(tiny, filled, dropout):
    network = tiny.attach(**{dropout: 0.5})
    filled(network)
    network.train(False)
    assert torch.equal(tiny.forward(), tiny.forward())
    network.train()
    torch.manual_seed(1)
    first, second = tiny.forward(), tiny.forward()
    torch.manual_seed(1)
    assert torch.equal(tiny.forward(), first)
    assert not torch.equal(first, second)
    tiny.unet.eval()
    tiny.text_encoder.eval()
    assert torch.equal(tiny.forward(), tiny.forward())


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropouts_repeat_under_gradient_checkpointing(make, filled, dropout):
    gradients = []
    for checkpointing in (False, True):
        tiny = make()
        network = tiny.attach(rates=(1e-3, 0.0), **{dropout: 0.3})
        filled(network)
        tiny.unet.train()
        if checkpointing:
            tiny.unet.enable_gradient_checkpointing()
        torch.manual_seed(2)
        tiny.forward().square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None) == (checkpointed is None)
        if plain is not None:
            torch.testing.assert_close(plain, checkpointed)


def test_layers_without_a_dropout_have_no_hooks(tiny):
    network = tiny.attach()
    for module in network.modules:
        for layer in module.layers[0].modules():
            assert not layer._forward_hooks
            assert not layer._forward_pre_hooks


def _kohya_shapes(name):
    """{lora name: (kind, in, out)} of a table dumped from sd-scripts."""
    rows = (line.split("\t") for line in (FIXTURES / name).read_text().splitlines())
    return {row[0]: (row[1], int(row[2].removeprefix("in=")), int(row[3].removeprefix("out="))) for row in rows}


@pytest.mark.parametrize(
    ("conv", "unet_table", "per_rank"),
    [(False, "keys_sd15_unet.tsv", 423_936), (True, "keys_sd15_unet_conv.tsv", 1_050_816)],
)
def test_full_size_sd15_has_kohyas_modules_and_shapes(conv, unet_table, per_rank):
    from engine.families.unet.model import kohya_name
    from engine.families.unet.targets import text_targets, unet_targets

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
            )
        )
    network = AdapterNetwork.attach(
        Lora(),
        {"text_encoder": text_encoder, "unet": unet},
        [
            *text_targets(text_encoder, "text_encoder", "lora_te_"),
            *unet_targets(unet, kohya_name, conv=conv),
        ],
        network=NetworkTable(network_dim=16, conv_dim=16 if conv else None),
        log=print,
    )
    unet_rows, text_rows = _kohya_shapes(unet_table), _kohya_shapes("keys_sd15_te.tsv")
    assert network.module_counts() == {"text_encoder": 72, "unet": len(unet_rows)}
    shapes = {module.target.kohya_name: (module.down.shape, module.up.shape) for module in network.modules}
    expected = {}
    for name, (kind, inside, outside) in (unet_rows | text_rows).items():
        kernel = {"lin": (), "conv1x1": (1, 1), "conv3x3": (3, 3)}[kind]
        expected[name] = ((16, inside, *kernel), (outside, 16, *(1 for _ in kernel)))
    assert shapes == expected
    groups = {
        group.name: sum(map(torch.numel, parameters)) for group, parameters in rate_groups(network, RunConfig()).items()
    }
    assert groups == {"text_encoder": 165_888 * 16, "unet": per_rank * 16}
