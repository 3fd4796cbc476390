import numpy as np
import pytest
import torch
from vits import FAMILIES, SMALL, small_backbone

from sohes.backbone.vit import Backbone, extract_features
from sohes.errors import SohesError

torch.set_num_threads(1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(16, 16), (8, 20)])
def test_tokens_are_timms_own_features_at_any_size(family, size):
    torch.manual_seed(0)
    architecture, arguments = FAMILIES[family]
    backbone = Backbone(architecture, arguments).eval()
    images = torch.randn(2, 3, *size)
    h, w = size[0] // 4, size[1] // 4
    with torch.no_grad():
        expected = backbone.vit.forward_features(images)[:, backbone.num_prefix_tokens :]
        tokens = backbone.tokens(images)
        embedded, grid = backbone.embed(images)
        halves = backbone.run_blocks(backbone.run_blocks(embedded, 0, 1, grid), 1, 2, grid)
    assert tokens.shape == (2, h, w, 24)
    assert grid == (h, w)
    assert embedded.shape == (2, backbone.num_prefix_tokens + h * w, 24)
    torch.testing.assert_close(tokens.flatten(1, 2), expected)
    torch.testing.assert_close(backbone.norm(halves)[:, backbone.num_prefix_tokens :], expected)


def test_rotary_positions_need_the_size_of_a_grid_that_is_no_square():
    architecture, arguments = FAMILIES["dinov3"]
    backbone = Backbone(architecture, arguments).eval()
    square, _ = backbone.embed(torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(backbone.run_blocks(square, 0, 2), backbone.run_blocks(square, 0, 2, (4, 4)))
    oblong, _ = backbone.embed(torch.randn(1, 3, 8, 20))
    with pytest.raises(ValueError, match="10 patches"):
        backbone.run_blocks(oblong, 0, 1)


def test_position_embeddings_are_interpolated_for_another_size():
    backbone = small_backbone()
    position = backbone.vit.pos_embed
    ramp = torch.arange(4.0)  # along x; its interpolation to twice the width is a ramp again
    with torch.no_grad():
        position.zero_()
        position[0, 1:] = ramp.repeat(4)[:, None]
        backbone.vit.patch_embed.proj.weight.zero_()
        backbone.vit.patch_embed.proj.bias.zero_()
        tokens, (h, w) = backbone.embed(torch.zeros(1, 3, 16, 32))
    assert (h, w) == (4, 8)
    row = tokens[0, 1:].unflatten(0, (4, 8))[2, :, 0]
    assert row.argsort().tolist() == list(range(8))
    np.testing.assert_allclose(row[3:5].mean().item(), 1.5, atol=1e-5)  # symmetric about the middle
    np.testing.assert_allclose(row[2:6].diff().numpy(), 0.5, atol=0.06)


def test_the_shape_is_what_the_params_say():
    backbone = small_backbone()
    assert (backbone.patch_size, backbone.embed_dim, backbone.depth, backbone.num_heads) == (4, 24, 2, 2)
    assert backbone.num_prefix_tokens == 1
    assert backbone.vit.patch_embed.grid_size == (4, 4)


def test_a_side_that_is_no_multiple_of_the_patch_is_named():
    with pytest.raises(SohesError, match=r"patch size 4 \(got 16 x 18\)"):
        small_backbone().tokens(torch.zeros(1, 3, 16, 18))


def test_normalise_is_the_published_mean_and_std():
    backbone = Backbone("vit_base_patch8_224.dino", {**SMALL, "img_size": 16})
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255
    values = backbone.normalise([image, image])
    assert values.shape == (2, 3, 8, 8)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(values[1, :, 3, 3], expected, rtol=1e-5)


def test_extract_features_are_the_tokens_of_each_image(monkeypatch):
    monkeypatch.setattr("sohes.backbone.vit.PIXELS_PER_BATCH", 2 * 16 * 16)  # batches of two, two and one
    backbone = small_backbone()
    images = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8))
    features = extract_features(backbone, images)
    assert len(features) == 5
    with torch.no_grad():
        for image, feature in zip(images, features, strict=True):
            assert feature.shape == (4, 4, 24)
            assert feature.dtype == np.float32
            np.testing.assert_allclose(feature, backbone.tokens(backbone.normalise([image]))[0], atol=1e-5)
    assert extract_features(backbone, []) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [-1, -2])
def test_keys_and_values_are_what_the_blocks_own_attention_sees(family, block):
    """Attention computed from them, with timm's own query, gives timm's own output where nothing turns the keys."""
    torch.manual_seed(0)
    architecture, arguments = FAMILIES[family]
    backbone = Backbone(architecture, arguments).eval()
    images = torch.randn(2, 3, 16, 16)
    projected = {}
    attention = backbone.vit.blocks[2 + block].attn

    def keep(module, inputs, output=None):
        projected["normed"] = inputs[0]

    handle = attention.register_forward_pre_hook(keep)
    with torch.no_grad():
        backbone.vit.forward_features(images)
        handle.remove()
        found = {kind: backbone.tokens(images, kind, block).flatten(1, 2) for kind in ("keys", "values")}
        normed = projected["normed"][:, backbone.num_prefix_tokens :]
        weights, biases = _projections(attention)
        for place, kind in ((1, "keys"), (2, "values")):
            torch.testing.assert_close(found[kind], normed @ weights[place].T + biases[place])
    assert not torch.allclose(found["keys"], found["values"])


def _projections(attention):
    """The query's, key's and value's weights and biases."""
    weights = attention.qkv.weight.chunk(3)
    if attention.qkv.bias is not None:
        return weights, attention.qkv.bias.chunk(3)
    if getattr(attention, "q_bias", None) is not None:
        return weights, (attention.q_bias, attention.k_bias, attention.v_bias)
    return weights, (torch.zeros(()),) * 3


def test_tokens_of_an_earlier_block_are_those_of_a_shorter_network():
    backbone = small_backbone()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        earlier = backbone.tokens(images, "tokens", -2)
        backbone.vit.blocks = backbone.vit.blocks[:1]
        torch.testing.assert_close(backbone.tokens(images), earlier)
    with pytest.raises(SohesError, match="1 blocks: explore"):
        backbone.tokens(images, "keys", -2)
