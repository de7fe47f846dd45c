"""ΔW of each kind, against its definition written out element by element."""

from __future__ import annotations

import torch

from engine.adapters.kinds.loha import Loha
from engine.adapters.kinds.lokr import Lokr
from engine.adapters.kinds.lora import Tucker
from engine.adapters.tools.layers import FULL, LORA, Layer
from tests.refusals import refused

R = torch.randn
NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"


def test_lora() -> None:
    down, up = R(2, 5), R(3, 2)
    assert torch.allclose(Layer(NAME, LORA, {"down": down, "up": up}, 1.0).delta(), up @ down / 2)
    assert torch.allclose(Layer(NAME, LORA, {"down": down, "up": up}).delta(), up @ down)  # no alpha: the rank


def test_a_convolution_is_the_convolution_of_both() -> None:
    down, up = R(2, 4, 3, 3), R(6, 2, 1, 1)
    image, weight = R(1, 4, 7, 7), Layer(NAME, LORA, {"down": down, "up": up}, 1.0).delta()
    assert weight.shape == (6, 4, 3, 3)
    conv = torch.nn.functional.conv2d
    assert torch.allclose(conv(image, weight), conv(conv(image, down), up) / 2, atol=1e-5)


def test_tucker() -> None:
    down, mid, up = R(2, 4, 1, 1), R(2, 2, 3, 3), R(6, 2, 1, 1)
    layer = Layer(NAME, Tucker.name, {"down": down, "mid": mid, "up": up}, 2.0)
    expected = torch.einsum("oa,abhw,bi->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    assert torch.allclose(layer.delta(), expected, atol=1e-6) and layer.shape == (6, 4, 3, 3) and layer.spatial


def test_loha() -> None:
    a1, b1, a2, b2 = R(6, 2), R(2, 5), R(6, 2), R(2, 5)
    factors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    assert torch.allclose(Layer(NAME, Loha.name, factors, 1.0).delta(), (a1 @ b1) * (a2 @ b2) / 2)


def test_loha_with_tucker_cores() -> None:
    cores = {"hada_t1": R(2, 2, 3, 3), "hada_t2": R(2, 2, 3, 3)}
    halves = {"hada_w1_a": R(2, 6), "hada_w1_b": R(2, 4), "hada_w2_a": R(2, 6), "hada_w2_b": R(2, 4)}
    products = [
        torch.einsum("abhw,bi,ao->oihw", cores[f"hada_t{n}"], halves[f"hada_w{n}_b"], halves[f"hada_w{n}_a"])
        for n in "12"
    ]
    assert torch.allclose(
        Layer(NAME, Loha.name, {**cores, **halves}, 2.0).delta(), products[0] * products[1], atol=1e-5
    )


def test_lokr() -> None:
    w1, w2 = R(2, 3), R(4, 5)
    full = Layer(NAME, Lokr.name, {"lokr_w1": w1, "lokr_w2": w2}, 7.0)
    assert torch.equal(full.delta(), torch.kron(w1, w2))  # both whole: no reader takes the alpha
    a, b = R(4, 2), R(2, 5)
    factored = Layer(NAME, Lokr.name, {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}, 1.0)
    assert torch.allclose(factored.delta(), torch.kron(w1, a @ b) / 2)
    kernel = R(4, 5, 3, 3)
    conv = Layer(NAME, Lokr.name, {"lokr_w1": w1, "lokr_w2": kernel}).delta()
    assert conv.shape == (8, 15, 3, 3) and torch.equal(conv[..., 1, 2], torch.kron(w1, kernel[..., 1, 2]))


def test_flattened_kernels_are_known_by_the_layer() -> None:
    factors = {"hada_w1_a": R(6, 2), "hada_w1_b": R(2, 36), "hada_w2_a": R(6, 2), "hada_w2_b": R(2, 36)}
    assert Layer("lora_unet_mid_block_resnets_0_conv1", Loha.name, factors).shape == (6, 4, 3, 3)
    assert Layer(NAME, Loha.name, factors).shape == (6, 36)


def test_full_difference() -> None:
    assert torch.equal(Layer(NAME, FULL, {"diff": torch.ones(3, 4)}).delta(), torch.ones(3, 4))


def test_factors_that_do_not_fit_are_named() -> None:
    with refused("lora-factors-do-not-fit", NAME, "lokr_w1 [2]"):
        Layer(NAME, Lokr.name, {"lokr_w1": R(2), "lokr_w2_a": R(4, 2), "lokr_w2_b": R(3, 5)}).delta()
