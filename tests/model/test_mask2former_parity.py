"""Our pixel decoder and mask decoder against transformers' Mask2Former, with the same weights."""

import pytest
import torch
from transformers import Mask2FormerConfig, SwinConfig
from transformers.models.mask2former import modeling_mask2former as mask2former

from sohes.model.mask_decoder import MaskDecoder
from sohes.model.pixel_decoder import PixelDecoder

DIM, IN_DIM, HEADS, QUERIES = 64, 24, 4, 7


def build_reference(pixel_layers=2, decoder_layers=4):
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(embed_dim=8, depths=[1], num_heads=[1], out_features=["stage1"]),
        feature_size=DIM,
        mask_feature_size=DIM,
        hidden_dim=DIM,
        encoder_layers=pixel_layers,
        encoder_feedforward_dim=40,
        decoder_layers=decoder_layers + 1,
        dim_feedforward=48,
        num_attention_heads=HEADS,
        num_queries=QUERIES,
    )
    pixel = mask2former.Mask2FormerPixelDecoder(config, feature_channels=[IN_DIM] * 4)
    transformer = mask2former.Mask2FormerTransformerModule(DIM, config)
    classes = torch.nn.Linear(DIM, 2)
    with torch.no_grad():  # every weight counts: also those that start at zero
        for parameter in (*pixel.parameters(), *transformer.parameters()):
            parameter.copy_(
                torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
            )
    return pixel, transformer, classes


def renamed(state, names):
    """The state dict with each prefix of `names` replaced; every key must be claimed once."""
    result = {}
    for key, value in state.items():
        (old,) = [n for n in names if key == n or key.startswith(f"{n}.")]
        result[names[old] + key[len(old) :]] = value
    return result


def pixel_weights(pixel, layers):
    names = {
        "level_embed": "level_embedding",
        "mask_projection": "mask_projection",
        "adapter_1": "lateral",
        "layer_1": "smooth",
    }
    names |= {f"input_projections.{i}": f"project.{i}" for i in range(3)}
    for i in range(layers):
        for old, new in {
            "self_attn.sampling_offsets": "attention.offsets",
            "self_attn.attention_weights": "attention.weights",
            "self_attn.value_proj": "attention.value",
            "self_attn.output_proj": "attention.out",
            "self_attn_layer_norm": "attention_norm",
            "fc1": "feedforward.0",
            "fc2": "feedforward.2",
            "final_layer_norm": "feedforward_norm",
        }.items():
            names[f"encoder.layers.{i}.{old}"] = f"layers.{i}.{new}"
    return renamed(pixel.state_dict(), names)


def decoder_weights(transformer, classes, layers):
    state = transformer.state_dict()
    for i in range(layers):
        for kind in ("weight", "bias"):
            packed = state.pop(f"decoder.layers.{i}.cross_attn.in_proj_{kind}")
            for name, part in zip(("query", "key", "value"), packed.chunk(3), strict=True):
                state[f"decoder.layers.{i}.cross_attn.{name}.{kind}"] = part
    state |= {f"classes.{name}": value for name, value in classes.state_dict().items()}
    names = {
        "queries_embedder.weight": "queries.positions",
        "queries_features.weight": "queries.features",
        "level_embed.weight": "level_embedding",
        "decoder.layernorm": "norm",
        "classes": "class_head",
    }
    names |= {f"decoder.mask_predictor.mask_embedder.{i}.0": f"mask_head.{2 * i}" for i in range(3)}
    for i in range(layers):
        for old, new in {
            "self_attn.q_proj": "self_attention.query",
            "self_attn.k_proj": "self_attention.key",
            "self_attn.v_proj": "self_attention.value",
            "self_attn.out_proj": "self_attention.out",
            "self_attn_layer_norm": "self_norm",
            "cross_attn.query": "cross_attention.query",
            "cross_attn.key": "cross_attention.key",
            "cross_attn.value": "cross_attention.value",
            "cross_attn.out_proj": "cross_attention.out",
            "cross_attn_layer_norm": "cross_norm",
            "fc1": "feedforward.0",
            "fc2": "feedforward.2",
            "final_layer_norm": "feedforward_norm",
        }.items():
            names[f"decoder.layers.{i}.{old}"] = f"layers.{i}.{new}"
    return renamed(state, names)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_same_weights_give_the_same_numbers(size):
    torch.manual_seed(0)
    pixel, transformer, classes = build_reference()
    ours_pixel = PixelDecoder(IN_DIM, DIM, num_heads=HEADS, feedforward_dim=40, layers=2)
    ours_pixel.load_state_dict(pixel_weights(pixel, 2))
    ours = MaskDecoder(DIM, num_queries=QUERIES, queries="learned", num_heads=HEADS, feedforward_dim=48, layers=4)
    missing, unexpected = ours.load_state_dict(decoder_weights(transformer, classes, 4), strict=False)
    assert set(missing) == {"ancestor_head.ancestor.weight", "ancestor_head.descendant.weight"}
    assert not unexpected
    maps = tuple(torch.randn(2, IN_DIM, size[0] // s, size[1] // s) for s in (4, 8, 16, 32))

    # transformers' training mode differs from ours in nothing but gradients, and ours adds the auxiliary outputs
    expected_pixels = pixel(list(maps), return_dict=True)
    features = ours_pixel(maps)
    torch.testing.assert_close(features.mask_features_BChw, expected_pixels.mask_features, atol=1e-4, rtol=1e-4)
    for level, expected in zip(features.levels_BSC, expected_pixels.multi_scale_features, strict=True):
        torch.testing.assert_close(level, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)

    expected = transformer(list(expected_pixels.multi_scale_features), expected_pixels.mask_features)
    output = ours(features)
    layers = (*output.auxiliary, output)
    assert len(layers) == len(expected.masks_queries_logits) == 5
    for layer, masks, hidden in zip(
        layers, expected.masks_queries_logits, expected.intermediate_hidden_states, strict=True
    ):
        torch.testing.assert_close(layer.mask_logits_BQhw, masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer.class_logits_BQ2, classes(hidden.transpose(0, 1)), atol=1e-4, rtol=1e-4)


def test_the_gradients_agree_as_well():
    torch.manual_seed(1)
    pixel, transformer, _ = build_reference(pixel_layers=1, decoder_layers=3)
    ours_pixel = PixelDecoder(IN_DIM, DIM, num_heads=HEADS, feedforward_dim=40, layers=1)
    ours_pixel.load_state_dict(pixel_weights(pixel, 1))
    ours = MaskDecoder(DIM, num_queries=QUERIES, queries="learned", num_heads=HEADS, feedforward_dim=48, layers=3)
    ours.load_state_dict(decoder_weights(transformer, torch.nn.Linear(DIM, 2), 3), strict=False)
    maps = [torch.randn(1, IN_DIM, 64 // s, 64 // s, requires_grad=True) for s in (4, 8, 16, 32)]

    decoded = pixel(maps, return_dict=True)
    masks = transformer(list(decoded.multi_scale_features), decoded.mask_features).masks_queries_logits
    expected = torch.autograd.grad(sum(m.sigmoid().mean() for m in masks), maps)
    output = ours(ours_pixel(tuple(maps)))
    loss = sum(layer.mask_logits_BQhw.sigmoid().mean() for layer in (*output.auxiliary, output))
    for ours_grad, theirs in zip(torch.autograd.grad(loss, maps), expected, strict=True):
        torch.testing.assert_close(ours_grad, theirs, atol=1e-6, rtol=1e-3)
