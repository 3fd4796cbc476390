from pathlib import Path

import pytest
import torch

from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.model.network import Segmenter
from sohes.params import ModelParams, load_params

REPOSITORY = Path(__file__).parents[2]


def tiny_backbone(patch=16, size=64, **more):
    return Backbone(
        "vit_tiny_patch16_224",
        {"patch_size": patch, "embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": size, **more},
    )


def tiny_params(**changes):
    params = {
        "image_size": 64,
        "hidden_dim": 32,
        "num_queries": 21,
        "queries": "grid",
        "num_heads": 2,
        "feedforward_dim": 48,
        "pixel_decoder_layers": 1,
        "decoder_layers": 4,
        "recompute_blocks": False,
        "adapter": {"interactions": 2, "stem_dim": 8, "num_heads": 2, "points": 2},
        "head": "mask2former",
        "cascade": {
            "ious": [0.5],
            "proposals": 10,
            "samples": 8,
            "anchor_scale": 4,
            "nms_iou": 0.7,
            "theta_cover": 0.9,
        },
    }
    return ModelParams.model_validate(params | changes)


def tiny(patch=16, **changes):
    torch.manual_seed(0)
    return Segmenter(tiny_backbone(patch), tiny_params(**changes))


def total(output):
    """Every output counts, as in the criterion."""
    layers = (*output.auxiliary, output)
    loss = sum(o.class_logits_BQ2.square().mean() + o.mask_logits_BQhw.sigmoid().mean() for o in layers)
    return loss + output.ancestor_logits_BQQ.sigmoid().mean()


@pytest.mark.parametrize("queries", ["grid", "learned"])
@pytest.mark.parametrize(("patch", "H", "W"), [(16, 64, 64), (8, 64, 96), (32, 96, 64)])
def test_shapes_for_any_patch_and_side(queries, patch, H, W):
    output = tiny(patch, queries=queries)(torch.randn(2, 3, H, W))
    assert output.class_logits_BQ2.shape == (2, 21, 2)
    assert output.mask_logits_BQhw.shape == (2, 21, H // 4, W // 4)
    assert output.ancestor_logits_BQQ.shape == (2, 21, 21)
    assert len(output.auxiliary) == 4
    assert all(a.ancestor_logits_BQQ is None for a in output.auxiliary)
    assert all(a.mask_logits_BQhw.shape == output.mask_logits_BQhw.shape for a in output.auxiliary)


@pytest.mark.parametrize("queries", ["grid", "learned"])
def test_every_parameter_gets_a_gradient(queries):
    model = tiny(queries=queries)
    total(model(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_side_that_does_not_fit_is_named():
    with pytest.raises(SohesError, match=r"multiple of 32 \(got 64 x 80 pixels\)"):
        tiny()(torch.randn(1, 3, 64, 80))


def test_more_interactions_than_blocks_are_refused():
    with pytest.raises(SohesError, match=r"3 blocks \(got 4\)"):
        tiny(adapter={"interactions": 4, "stem_dim": 8, "num_heads": 2, "points": 2})


def test_evaluation_gives_the_last_output_only_and_does_not_depend_on_the_batch():
    model = tiny()
    images = torch.randn(3, 3, 64, 64)
    trained = model(images)
    with torch.no_grad():
        together, alone = model.eval()(images), model(images[1:2])
    assert together.auxiliary == ()
    torch.testing.assert_close(together.mask_logits_BQhw, trained.mask_logits_BQhw)
    torch.testing.assert_close(together.mask_logits_BQhw[1:2], alone.mask_logits_BQhw, atol=1e-4, rtol=1e-4)


def test_recomputed_blocks_give_the_same_gradients():
    images = torch.randn(1, 3, 64, 64)
    gradients = []
    for recompute in (False, True):
        model = tiny(recompute_blocks=recompute)
        total(model(images)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("queries", ["grid", "learned"])
def test_bfloat16_autocast_stays_close(queries):
    model = tiny(queries=queries)
    images = torch.randn(1, 3, 64, 64)
    exact = model(images).auxiliary[0]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        loss = total(output)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    rough = output.auxiliary[0].mask_logits_BQhw.float()
    error = (rough - exact.mask_logits_BQhw).abs().mean()
    assert error < 0.1 * exact.mask_logits_BQhw.std() + 0.05


def test_rotary_backbones_know_their_grid():
    """EVA-02 style positions depend on (h, w), which the adapter must pass on."""
    backbone = Backbone("eva02_tiny_patch14_224", {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2})
    output = Segmenter(backbone, tiny_params())(torch.randn(1, 3, 64, 96))
    assert output.mask_logits_BQhw.shape == (1, 21, 16, 24)


def test_the_same_seed_gives_the_same_gradients():
    images = torch.randn(2, 3, 64, 64)
    runs = []
    for _ in range(2):
        model = tiny()
        total(model(images)).backward()
        runs.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*runs)


PROFILES = ["params.yaml", *sorted(f"params/{path.name}" for path in REPOSITORY.glob("params/*.yaml"))]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_built(profile):
    """On the meta device: shapes only."""
    params = load_params(REPOSITORY / profile)
    backbone = params.backbone
    with torch.device("meta"):
        vit = Backbone(
            backbone.architecture,
            {
                "patch_size": backbone.patch_size,
                "embed_dim": backbone.embed_dim,
                "depth": backbone.depth,
                "num_heads": backbone.num_heads,
                "img_size": backbone.image_size,
            },
        )
        model = Segmenter(vit, params.model)
        images = torch.empty(1, 3, params.model.image_size, params.model.image_size)
        output = model.eval()(images)
    side = params.model.image_size // 4
    assert output.mask_logits_BQhw.shape == (1, params.model.num_queries, side, side)
