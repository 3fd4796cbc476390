import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from sohes.backbone.vit import Backbone, build_backbone, extract_features, load_backbone, save_backbone
from sohes.errors import SohesError
from sohes.params import BackboneParams, load_params

torch.set_num_threads(1)
DEMO = load_params(Path(__file__).parents[2] / "params.yaml").backbone
SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
FAMILIES = {  # how the DINO family differs: registers, layer scale, rotary positions
    "dino": ("vit_tiny_patch16_224", {**SMALL, "img_size": 16}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 16}),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, "img_size": 16}),
    "eva02": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 16}),
}


def small_params(**changes) -> BackboneParams:
    return DEMO.model_copy(update={**SMALL, "image_size": 16, **changes})


def small_backbone(**changes) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(small_params(**changes)).eval()


@pytest.mark.parametrize(
    ("architecture", "std", "said"),
    [
        ("vit_base_patch8_224", 0.5, True),
        ("vit_base_patch8_224.dino", 0.229, False),
        ("vit_small_patch14_dinov2", 0.229, False),  # all its weights want the same
    ],
)
def test_bare_weights_say_how_images_are_normalised_if_that_is_open(tmp_path, capsys, architecture, std, said):
    path = tmp_path / "bare.pth"
    torch.save(small_backbone(architecture=architecture).vit.state_dict(), path)
    made = build_backbone(small_params(architecture=architecture, pretrained=str(path)))
    assert made.std[0] == std
    told = capsys.readouterr().err
    assert ("(0.5, 0.5, 0.5) of vit_base_patch8_224; if these weights want others" in told) == said
    assert ("such as vit_base_patch8_224.dino\n" in told) == said
    assert bool(told) == said


@pytest.mark.parametrize("from_card", [True, False])
def test_a_lack_of_memory_is_no_fault_of_the_weights(tmp_path, monkeypatch, from_card):
    path = tmp_path / "backbone.safetensors"
    save_backbone(small_backbone(), path, {})
    if not from_card:
        path.with_suffix(".json").unlink()
    lacking = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")

    def fail(*_, **__):
        raise lacking

    with monkeypatch.context() as patched:
        patched.setattr(timm.models.VisionTransformer, "load_state_dict", fail)
        with pytest.raises(RuntimeError) as caught:
            build_backbone(small_params(pretrained=str(path)))
        assert caught.value is lacking
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError) as caught:
        build_backbone(small_params(pretrained=str(path)))
    assert caught.value is lacking


def test_a_lack_of_memory_is_no_fault_of_the_hub(monkeypatch):
    lacking = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")

    def fail(*_, **__):
        raise lacking

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError) as caught:
        build_backbone(small_params(pretrained="vit_tiny_patch16_224.augreg_in21k"))
    assert caught.value is lacking


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


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_is_built_again_without_the_hub(tmp_path, family):
    torch.manual_seed(0)
    backbone = Backbone(*FAMILIES[family]).eval()
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbone, path, {"pretrained": "train", "steps": 3})
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["pretrained"], card["steps"], card["embed_dim"]) == ("train", 3, 24)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.json", "backbone.safetensors"]
    again = load_backbone(path).eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.tokens(images), backbone.tokens(images))
    assert (again.mean, again.std) == (backbone.mean, backbone.std)


def test_the_same_backbone_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_backbone(small_backbone(), tmp_path / f"{name}.safetensors", {})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode  # not the owner's alone


def _saved(folder: Path) -> Path:
    path = folder / "backbone.safetensors"
    save_backbone(small_backbone(), path, {})
    return path


def test_loading_nothing_says_what_to_run(tmp_path):
    with pytest.raises(SohesError, match="run `sohes backbone` first"):
        load_backbone(tmp_path / "backbone.safetensors")


def test_weights_that_are_not_their_cards_are_refused(tmp_path):
    path = _saved(tmp_path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(SohesError, match="not the file that its card describes"):
        load_backbone(path)


def test_a_card_of_another_architecture_is_one_sentence(tmp_path):
    path = _saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["arguments"]["depth"] = 3
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(SohesError, match="does not hold the weights of vit_tiny_patch16_224") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"architecture": "vit"}'])
def test_a_file_that_is_no_card_is_one_sentence(tmp_path, text):
    path = _saved(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(SohesError, match=r"backbone\.json is damaged .*: run `sohes backbone` again"):
        load_backbone(path)


def test_a_card_of_another_version_is_refused(tmp_path):
    path = _saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(SohesError, match="version 99"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"architecture": "vit_of_tomorrow"},
            r"timm .* cannot build vit_of_tomorrow with .*: name another architecture",
        ),
        ({"arguments": None}, r"backbone\.json is damaged \(its arguments are None\): run `sohes backbone` again"),
    ],
)
def test_a_card_that_this_timm_cannot_follow_is_one_sentence(tmp_path, changes, sentence):
    path = _saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    with pytest.raises(SohesError, match=sentence):
        load_backbone(path)


# ---------------------------------------------------------------- pretrained: a file, a name


def test_a_saved_backbone_can_be_the_start(tmp_path):
    path = _saved(tmp_path)
    built = build_backbone(small_params(pretrained=str(path)))
    assert torch.equal(built.vit.pos_embed, small_backbone().vit.pos_embed)
    with pytest.raises(SohesError, match=r"backbone\.depth is 5, but .* has 2"):
        build_backbone(small_params(pretrained=str(path), depth=5))


def test_bare_weights_fit_the_architecture_and_the_image_size(tmp_path):
    path = tmp_path / "timm.safetensors"
    source = small_backbone()
    save_file(source.vit.state_dict(), path)
    built = build_backbone(small_params(pretrained=str(path), image_size=32))  # positions for 8 x 8 patches
    assert built.vit.pos_embed.shape == (1, 65, 24)
    assert torch.equal(built.vit.blocks[1].mlp.fc1.weight, load_file(path)["blocks.1.mlp.fc1.weight"])


def test_bare_weights_of_another_model_are_one_sentence(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(small_backbone(depth=1).vit.state_dict(), path)
    with pytest.raises(SohesError, match=r"other.safetensors does not hold the weights of .*it lacks blocks\.1\."):
        build_backbone(small_params(pretrained=str(path)))
    path.write_bytes(b"not a file of weights")
    with pytest.raises(SohesError, match="does not hold the weights"):
        build_backbone(small_params(pretrained=str(path)))
    with pytest.raises(SohesError, match="no backbone weights at"):
        build_backbone(small_params(pretrained=str(tmp_path / "absent.safetensors")))


def test_a_hub_that_cannot_be_reached_names_the_remedy(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Name or service not known. Check your connection\nTraceback ...")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(SohesError, match=r"\(Name or service not known\): check the network, or fetch") as caught:
        build_backbone(small_params(pretrained="vit_base_patch8_224.dino"))
    assert "\n" not in str(caught.value)


def _pretend_hub(monkeypatch, *, trained: bool) -> None:
    """timm's own constructor, with random weights for those of the hub."""
    create = timm.create_model

    def pretend(name, *, pretrained, **arguments):
        assert pretrained
        vit = create(name, pretrained=False, patch_size=4, embed_dim=24, depth=2, num_heads=2, **arguments)
        if trained:
            torch.nn.init.normal_(vit.norm.weight)
        return vit

    monkeypatch.setattr(timm, "create_model", pretend)


def test_a_timm_name_must_have_the_shape_of_the_params(monkeypatch):
    _pretend_hub(monkeypatch, trained=True)
    params = small_params(pretrained="vit_base_patch8_224.dino")
    assert build_backbone(params).vit.patch_embed.grid_size == (4, 4)
    with pytest.raises(SohesError, match=r"backbone\.embed_dim is 48, but .* has 24: set it to 24"):
        build_backbone(params.model_copy(update={"embed_dim": 48}))


def test_a_timm_model_without_a_norm_for_its_patches_is_refused(monkeypatch):
    _pretend_hub(monkeypatch, trained=False)
    with pytest.raises(SohesError, match="no norm for its patch tokens"):
        build_backbone(small_params(pretrained="vit_base_patch8_224.dino"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pretrained": "vit_base_patch8_224.nobody"}, "no pretrained model vit_base_patch8_224.nobody"),
        ({"architecture": "vit_of_nobody"}, "timm has no model vit_of_nobody"),
        ({"architecture": "resnet18"}, "resnet18 is not a plain ViT"),
        (
            {"architecture": "vit_small_r26_s32_224"},
            r"timm .* cannot build vit_small_r26_s32_224 with .*: name another",
        ),
        (
            {"architecture": "vit_small_patch16_dinov3", "embed_dim": 36, "num_heads": 2},
            r"4 must divide their width \(got 18\)",
        ),
    ],
)
def test_params_that_name_no_backbone_are_one_sentence(changes, sentence):
    with pytest.raises(SohesError, match=sentence):
        build_backbone(small_params(**changes))
