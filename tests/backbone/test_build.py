import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from vits import small_backbone, small_params

from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.errors import SohesError

torch.set_num_threads(1)


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


def test_a_saved_backbone_can_be_the_start(tmp_path):
    path = tmp_path / "backbone.safetensors"
    save_backbone(small_backbone(), path, {})
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


@pytest.mark.parametrize(
    "beside", ['{"num": 1}', "no JSON", '{"digest": "sha256:0", "backbone": {"architecture": "x"}}']
)
def test_bare_weights_may_lie_beside_a_json_of_something_else(tmp_path, beside):
    path = tmp_path / "timm.safetensors"
    save_file(small_backbone().vit.state_dict(), path)
    path.with_suffix(".json").write_text(beside)
    assert torch.equal(build_backbone(small_params(pretrained=str(path))).vit.pos_embed, load_file(path)["pos_embed"])


def test_what_is_wrong_with_a_named_backbone_is_not_cured_by_the_command_that_found_it(tmp_path):
    path = tmp_path / "backbone.safetensors"
    save_backbone(small_backbone(), path, {})
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(SohesError, match=r"not the file that its card describes: name another file in backbone\.pre"):
        build_backbone(small_params(pretrained=str(path)))
    path.unlink()
    with pytest.raises(SohesError, match=r"no backbone weights at .*: fix backbone\.pretrained"):
        build_backbone(small_params(pretrained=str(path)))


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
