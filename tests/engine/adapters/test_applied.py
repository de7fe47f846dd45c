"""LoRA files at work in a model: whoever named their modules, at any strength, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.adapters.applied import AppliedLoras
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.network import AdapterNetwork
from engine.adapters.usable import check_usable
from engine.config.network import NetworkTable
from engine.families.unet.model import kohya_name
from engine.families.unet.targets import norm_targets
from engine.types import LoraTarget
from tests.engine.adapters.conftest import Tiny, make_tiny, targets_of
from tests.refusals import refused

Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """saved({key: tensor}, "name"): the file."""

    def save(tensors: dict[str, Tensor], name: str = "a", **metadata: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata or None)
        return path

    return save


def as_model(tiny: Tiny) -> Any:
    return SimpleNamespace(
        trainable={"text_encoder": tiny.text_encoder, "unet": tiny.unet},
        lora_targets=lambda conv: targets_of(tiny.unet, tiny.text_encoder, conv=conv),
        norm_targets=lambda conv: norm_targets(tiny.unet, kohya_name, conv=conv),
        outer_targets=list,
    )


def in_peft(seed: int = 0, *, conv: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of the trainer's own layers in training, and their values in Kohya's names."""
    tiny = make_tiny()
    network = tiny.attach(conv=conv, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return tiny.forward(), network.state()


def drawn(files: list[Path], *strengths: float, messages: list[str] | None = None) -> Tensor:
    tiny = make_tiny()
    applied = AppliedLoras(as_model(tiny), files, "SD 1.5", (messages if messages is not None else []).append)
    applied.set_strengths(strengths)
    with torch.no_grad():
        return tiny.forward()


def untouched() -> Tensor:
    with torch.no_grad():
        return make_tiny().forward()


def test_at_strength_1_it_is_the_trainers_layers_to_the_bit(saved: Saved) -> None:
    expected, state = in_peft()
    messages: list[str] = []
    assert torch.equal(drawn([saved(state)], 1.0, messages=messages), expected)
    assert not torch.equal(expected, untouched()) and messages == []


def test_at_strength_0_and_after_removal_it_is_the_base_to_the_bit(saved: Saved) -> None:
    tiny, before = make_tiny(), untouched()
    file = saved(in_peft()[1])
    applied = AppliedLoras(as_model(tiny), [file], "SD 1.5", print)
    with torch.no_grad():
        assert torch.equal(tiny.forward(), before)
        applied.set_strengths([0.5])
        assert not torch.equal(tiny.forward(), before)
        applied.set_strengths([0.0])
        assert torch.equal(tiny.forward(), before)
        applied.set_strengths([0.5])
        applied.remove()
        assert torch.equal(tiny.forward(), before)


def test_the_strength_is_a_factor_on_alpha(saved: Saved) -> None:
    state = in_peft()[1]
    halved = {key: tensor / 2 if key.endswith("alpha") else tensor for key, tensor in state.items()}
    assert torch.equal(drawn([saved(state)], 0.5), drawn([saved(halved, "half")], 1.0))
    turned = {key: -tensor if key.endswith("lora_up.weight") else tensor for key, tensor in state.items()}
    assert torch.equal(drawn([saved(state)], -1.0), drawn([saved(turned, "turned")], 1.0))


def test_two_files_add_up(saved: Saved) -> None:
    first, second = in_peft(1)[1], in_peft(2)[1]
    files = [saved(first, "a"), saved(second, "b")]
    both = drawn(files, 0.5, 0.25)
    merged = {}
    for name in dict.fromkeys(key.partition(".")[0] for key in first):
        downs = [state[f"{name}.lora_down.weight"] for state in (first, second)]
        factors = [
            strength * float(state[f"{name}.alpha"]) / len(down)
            for strength, state, down in zip((0.5, 0.25), (first, second), downs, strict=True)
        ]
        ups = [state[f"{name}.lora_up.weight"] * factor for state, factor in zip((first, second), factors, strict=True)]
        merged |= {f"{name}.lora_down.weight": torch.cat(downs), f"{name}.lora_up.weight": torch.cat(ups, dim=1)}
    torch.testing.assert_close(both, drawn([saved(merged, "ab")], 1.0), rtol=1e-4, atol=1e-5)
    assert torch.equal(drawn(files, 0.0, 1.0), drawn(files[1:], 1.0))


def _diffusers(state: dict[str, Tensor], targets: list[LoraTarget]) -> dict[str, Tensor]:
    paths = {target.kohya_name: f"{target.component}.{target.path}" for target in targets}
    ends = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight", "alpha": "alpha"}
    return {f"{paths[key.partition('.')[0]]}.{ends[key.partition('.')[2]]}": tensor for key, tensor in state.items()}


def test_diffusers_names_are_the_same_file(saved: Saved) -> None:
    expected, state = in_peft()
    tiny = make_tiny()
    renamed = _diffusers(state, targets_of(tiny.unet, tiny.text_encoder, conv=True))
    assert torch.equal(drawn([saved(renamed)], 1.0), expected)


def test_without_alpha_peft_takes_the_rank_or_what_the_metadata_state(saved: Saved) -> None:
    expected, state = in_peft(conv=False)
    tiny = make_tiny()
    renamed = _diffusers(state, targets_of(tiny.unet, tiny.text_encoder))
    alpha, rank = (next(tensor for key, tensor in renamed.items() if key.endswith(end)) for end in
                   ("alpha", "lora_A.weight"))  # fmt: skip
    bare = {key: tensor for key, tensor in renamed.items() if not key.endswith("alpha")}
    stated = json.dumps({f"{part}.lora_alpha": float(alpha) for part in ("unet", "text_encoder")})
    assert torch.equal(drawn([saved(bare, "stated", lora_adapter_metadata=stated)], 1.0), expected)
    torch.testing.assert_close(drawn([saved(bare)], float(alpha) / len(rank)), expected)
    path = saved(bare)
    (path.parent / "adapter_config.json").write_text(json.dumps({"lora_alpha": float(alpha)}))
    torch.testing.assert_close(drawn([path], 1.0), expected)


def test_other_kinds_work_by_their_difference(saved: Saved) -> None:
    """A full difference that is a LoRA's product gives the LoRA's output; one of LoKr its Kronecker product's."""
    name, rows, columns = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 16, 16
    first, second = torch.randn(4, 4) * 0.3, torch.randn(4, 4) * 0.3
    lokr = {f"{name}.lokr_w1": first, f"{name}.lokr_w2": second}
    full = {f"{name}.diff": torch.kron(first, second)}
    assert full[f"{name}.diff"].shape == (rows, columns)
    output = drawn([saved(lokr)], 0.7)
    torch.testing.assert_close(output, drawn([saved(full, "b")], 0.7))
    assert not torch.equal(output, untouched())


@pytest.mark.parametrize(
    "settings",
    [{"algo": "loha"}, {"algo": "lokr", "factor": 4}, {"use_tucker": True}, {"algo": "glora"}, {"algo": "full"},
     {"algo": "diag-oft", "rescaled": True, "constraint": 0.05}, {"algo": "boft", "network_dim": 8}, {"algo": "ia3"}],
)  # fmt: skip
def test_a_trained_file_of_any_kind_draws_as_its_run_does(settings: dict[str, Any], saved: Saved) -> None:
    """With norm layers; at strength 0 it is the base."""
    network = NetworkTable(**{"network_module": "lycoris.kohya", "network_dim": 4, "train_norm": True, **settings})
    tiny, kind = make_tiny(), trained_kind(network)
    targets = [*targets_of(tiny.unet, tiny.text_encoder, conv=True), *norm_targets(tiny.unet, kohya_name, conv=True)]
    made = AdapterNetwork.attach(kind, tiny.components, targets, network=network, log=lambda _: None)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(values * 0.05)
        expected = tiny.forward()
    messages: list[str] = []
    file = saved(made.state())
    torch.testing.assert_close(drawn([file], 1.0, messages=messages), expected, rtol=1e-3, atol=1e-4)
    assert messages == [] and (expected - untouched()).abs().max() > 1e-2
    assert torch.equal(drawn([file], 0.0), untouched())


def test_a_bias_is_added_too(saved: Saved) -> None:
    tiny, bias = make_tiny(), torch.randn(4)
    file = saved({"lora_unet_conv_out.diff": torch.zeros(4, 16, 3, 3), "lora_unet_conv_out.diff_b": bias})
    torch.testing.assert_close(drawn([file], 0.5), untouched() + 0.5 * bias.reshape(1, -1, 1, 1))
    assert tiny.unet.conv_out.out_channels == 4


def test_rows_of_a_fused_layer_go_to_its_parts(saved: Saved) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.to_q(x), self.to_k(x), self.to_v(x)], dim=-1)

    layers, x = Attention(), torch.randn(3, 8)
    target = LoraTarget("transformer", "to_q", "lora_unet_double_blocks_0_img_attn_qkv", "linear", ("to_k", "to_v"))
    model: Any = SimpleNamespace(
        trainable={"transformer": layers},
        lora_targets=lambda conv: [target],
        norm_targets=lambda conv: [],
        outer_targets=list,
    )
    matrix, lengths = torch.randn(24, 8), torch.rand(24) + 0.5
    weight = torch.cat([layer.weight for layer in (layers.to_q, layers.to_k, layers.to_v)]).detach()
    name = target.kohya_name
    down, up = torch.randn(2, 8), torch.randn(24, 2)
    merged = weight + up @ down
    decomposed = merged * (lengths / merged.norm(dim=1)).reshape(-1, 1) - weight
    dora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    for tensors, change in (
        ({f"{name}.diff": matrix}, matrix),
        (dora, up @ down),
        ({**dora, f"{name}.dora_scale": lengths.reshape(-1, 1)}, decomposed),
    ):
        with torch.no_grad():
            before = layers(x)
            applied = AppliedLoras(model, [saved(tensors, "f")], "FLUX", print)
            applied.set_strengths([0.5])
            torch.testing.assert_close(layers(x), before + 0.5 * x @ change.T, rtol=1e-4, atol=1e-5)
            applied.remove()


def test_unknown_modules_are_logged_and_files_with_only_such_refused(saved: Saved) -> None:
    state = in_peft()[1]
    more = {**state, "lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight": torch.ones(4, 16),
            "lora_unet_down_blocks_9_attentions_0_proj_in.lora_up.weight": torch.ones(16, 4)}  # fmt: skip
    messages: list[str] = []
    drawn([saved(more)], 1.0, messages=messages)
    assert messages == [
        "1 modules of a.safetensors have no layer in this model and are skipped: "
        "lora_unet_down_blocks_9_attentions_0_proj_in."
    ]
    strange = {key: tensor for key, tensor in more.items() if "blocks_9" in key}
    with refused("lora-without-modules"):
        drawn([saved(strange, "strange")], 1.0)


def test_a_file_of_another_size_is_refused(saved: Saved) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    low = {f"{name}.lora_down.weight": torch.ones(4, 320), f"{name}.lora_up.weight": torch.ones(320, 4)}
    for number, tensors in enumerate(
        (low, {f"{name}.diff": torch.ones(320, 320)}, {f"{name}.diff_b": torch.ones(5)},
         {f"{name}.lokr_w1": torch.ones(3, 3), f"{name}.lokr_w2": torch.ones(5, 5)})
    ):  # fmt: skip
        with refused("lora-of-other-size", f"f{number}.safetensors", name):
            drawn([saved(tensors, f"f{number}")], 1.0)


@pytest.mark.parametrize(
    ("tensors", "code", "part"),
    [
        ({"lora_unet_x.oft_R.weight": torch.ones(4, 6)}, "lora-not-for-sampling", "1 modules of the kind OFT of peft"),
        ({"lora_unet_x.oft_diag": torch.ones(4, 4, 4)}, "lora-not-for-sampling", "oft_diag"),
        ({"lora_unet_x.set_weight": torch.ones(4, 4)}, "lora-not-for-sampling", "of the kind whole weight"),
        (
            {"lora_unet_x.lora_down.weight": torch.ones(2, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 2),
             "lora_unet_x.lora_up.bias": torch.ones(4)},
            "lora-not-for-sampling", "lora_unet_x.lora_up.bias",
        ),
        ({"lora_unet_x.lora_down.weight": torch.ones(2, 4)}, "lora-incomplete", "lora_up.weight"),
        (
            {"lora_unet_x.lora_down.weight": torch.full((2, 4), torch.nan),
             "lora_unet_x.lora_up.weight": torch.ones(4, 2)},
            "weights-not-finite", "lora_unet_x.lora_down.weight",
        ),
        ({"model.x.weight": torch.ones(2)}, "not-a-lora", ".safetensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_with_is_refused_by_name(
    saved: Saved, tensors: dict[str, Tensor], code: str, part: str
) -> None:
    with refused(code, part):
        check_usable(saved(tensors), None)


def test_a_lora_for_another_family_is_refused(saved: Saved) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    file = saved({f"{name}.lora_down.weight": torch.ones(2, 2048), f"{name}.lora_up.weight": torch.ones(640, 2)})
    assert check_usable(file, "SDXL").base == "SDXL"
    with refused("lora-for-other-model"):
        check_usable(file, "SD 1.5")
