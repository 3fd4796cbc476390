from pathlib import Path

import pytest
import yaml

from sohes.errors import SohesError
from sohes.model.footprint import build
from sohes.params import load_params, load_params_anywhere, profiles
from sohes.params.model import grid_side
from sohes.project import TEMPLATE

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["params.yaml", *sorted(f"params/{path.name}" for path in ROOT.glob("params/*.yaml"))])
def test_every_profile_is_valid(name):
    load_params(ROOT / name)


def changed(tmp_path, change):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p["explore"].pop("theta_small"), "missing key explore.theta_small"),
        (lambda p: p["explore"].update(theta_smal=1), "unknown key explore.theta_smal"),
        (lambda p: p["explore"].update(theta_cover=1.5), "explore.theta_cover"),
        (lambda p: p["explore"].update(theta_merge=[0.1, 0.2]), "theta_merge must fall strictly"),
        (lambda p: p["pull"].update(source="ftp"), "pull.source"),
        (lambda p: p.update(seed=-3), r"seed: .* greater than or equal to 0 \(got -3\)"),
        (lambda p: p.update(seed=2**64), "seed: .* less than"),
        (lambda p: p["correct"]["optim"].update(weight_decay=float("inf")), "correct.optim.weight_decay: .* finite"),
        (lambda p: p["loss"].update(dice_weight=float("nan")), "loss.dice_weight: .* finite"),
        (lambda p: p["explore"].update(theta_merge=[0.5, float("nan")]), "explore.theta_merge.1: .* finite"),
        (lambda p: p["instruct"]["optim"].update(learning_rate=-1e-3), "learning_rate: .* greater than or equal"),
        (lambda p: p["backbone"]["dino"].update(teacher_temperature=0), "teacher_temperature: .* greater than 0"),
    ],
)
def test_an_error_names_the_key(tmp_path, change, sentence):
    path = changed(tmp_path, change)
    with pytest.raises(SohesError, match=sentence):
        load_params(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p["backbone"].update(num_heads=5), "backbone: num_heads 5 must divide embed_dim 128"),
        (lambda p: p["backbone"]["distill"]["teacher"].update(patch_size=16), "patch_size 16 must divide image_size"),
        (lambda p: p["model"].update(hidden_dim=90), "model: num_heads 4 must divide hidden_dim 90"),
        (lambda p: p["model"].update(hidden_dim=66, num_heads=3), r"hidden_dim must be a multiple of 4 \(got 66\)"),
        (lambda p: p["model"].update(num_queries=1), r"21 or 84 \(got 1\)"),
        (lambda p: p["model"].update(num_queries=100), r"84 or 189 \(got 100\)"),
        (lambda p: p["model"].update(num_queries=300), r"189 or 336 \(got 300\)"),
        (lambda p: p["model"].update(image_size=208), "image_size must be a multiple of 32 and of backbone.patch_size"),
        (
            lambda p: p["downstream"].update(image_size=200),
            "downstream.image_size must be a multiple of 32 and of back",
        ),
        (lambda p: p["downstream"].update(image_size=240), r"of 32 and of backbone.patch_size 16 \(got 240\)"),
        (
            lambda p: p["backbone"]["dino"].update(image_size=84),
            "backbone: patch_size 16 must divide dino.image_size 84",
        ),
        (
            lambda p: (p["backbone"].update(pretrained="distill"), p["backbone"]["distill"].update(image_size=322)),
            "backbone: patch_size 16 must divide distill.image_size 322",
        ),
        (lambda p: p["model"]["adapter"].update(num_heads=5), "adapter.num_heads 5 must divide half of backbone.emb"),
        (lambda p: p["model"]["adapter"].update(interactions=6), "interactions 6 must not exceed backbone.depth 4"),
        (lambda p: p["instruct"].update(accumulate=3), "instruct: accumulate 3 must divide batch_size 4"),
        (lambda p: p["correct"]["augment"].update(scale_min=2), "scale_min 2 must not exceed scale_max 1.4"),
        (
            lambda p: p["explore"].update(image_size=100),
            "patch_size 8 must divide image_size 100 with features handmade",
        ),
        (lambda p: p["explore"].update(crop_size=60), "explore: patch_size 8 must divide crop_size 60"),
        (
            lambda p: p["explore"].update(also=[{"features": "tokens", "image_size": 196}]),
            "explore: backbone.patch_size 16 must divide image_size 196 with features tokens",
        ),
        (
            lambda p: p["explore"].update(also=[{"features": "fused", "crop_size": 60}]),
            "patch_size 8 must divide crop_s",
        ),
        (
            lambda p: (p["model"].update(head="cascade"), p["correct"].update(compile=True)),
            "correct.compile is for model",
        ),
        (
            lambda p: (p["model"].update(head="cascade"), p["correct"].update(hold_free=True)),
            r"correct\.hold_free is for model\.head mask2former \(got cascade\): set it to false",
        ),
        (lambda p: p["model"]["cascade"].update(anchor_scale=0.2), "anchor_scale"),
    ],
)
def test_numbers_that_do_not_fit_together_are_found_before_anything_is_computed(tmp_path, change, sentence):
    with pytest.raises(SohesError, match=sentence) as caught:
        load_params(changed(tmp_path, change))
    assert len(str(caught.value)) < len(str(tmp_path)) + 160  # it names the numbers, not the whole section


@pytest.mark.parametrize("pretrained", ["train", "distill"])
@pytest.mark.parametrize("profile", profiles())
def test_every_profiles_backbone_can_be_trained_here(profile, pretrained):
    load_params(profiles()[profile], {"backbone.pretrained": pretrained})


def test_views_of_a_training_that_is_not_run_may_have_any_size(tmp_path):
    load_params(changed(tmp_path, lambda p: p["backbone"]["distill"].update(image_size=322)))


def test_crops_that_are_never_made_may_have_any_size(tmp_path):
    quiet = {"crop_size": 60, "theta_small": 0.0, "recluster": "small"}
    assert load_params(changed(tmp_path, lambda p: p["explore"].update(quiet))).explore.crop_size == 60


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    params = load_params(changed(tmp_path, lambda p: p["backbone"].update(pretrained="~/vit.safetensors")))
    assert params.backbone.pretrained == "/home/me/vit.safetensors"
    params = load_params(changed(tmp_path, lambda p: p["instruct"].update(start="~/one.safetensors")))
    assert params.instruct.start == "/home/me/one.safetensors"


def test_a_network_on_another_models_vit_need_not_fit_the_backbone(tmp_path):
    def begin_with_small(p):
        p["model"].update(image_size=416)  # 416 is no multiple of the demo's patches
        p["backbone"].update(patch_size=12, image_size=192)
        p["backbone"]["dino"].update(image_size=84)
        p["instruct"].update(start="small", backbone_of_start=True)

    params = load_params(changed(tmp_path, begin_with_small))
    build(params)
    model = params.model.model_copy(update={"image_size": 200})
    with pytest.raises(SohesError, match=r"multiple of 32 and of backbone.patch_size 16 \(got 200\), as the ViT here"):
        build(params.model_copy(update={"model": model}))


@pytest.mark.parametrize(("num_queries", "g"), [(21, 1), (84, 2), (189, 3), (336, 4)])
def test_numbers_of_grid_queries(num_queries, g):
    assert grid_side(num_queries) == g


def test_another_head_has_no_queries_to_divide(tmp_path):
    load_params(changed(tmp_path, lambda p: p["model"].update(head="cascade", num_queries=100, num_heads=3)))


def test_a_missing_file_and_invalid_yaml_are_reported(tmp_path):
    with pytest.raises(SohesError, match="no params file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(SohesError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("seed: 0  # f\u00fcr".encode("latin-1"), "is not UTF-8 text \\(byte 12\\): save it as UTF-8"),
        (b"", "is empty: fix it"),
        (b"# nothing but a comment\n", "is empty: fix it"),
        (b"- seed", "is a list and not a mapping of keys to values: fix it"),
    ],
)
def test_a_file_without_keys_is_reported(tmp_path, data, sentence):
    (tmp_path / "params.yaml").write_bytes(data)
    with pytest.raises(SohesError, match=sentence):
        load_params(tmp_path / "params.yaml")


def test_the_paper_profile_has_the_papers_numbers():
    paper = load_params(ROOT / "params/paper.yaml")
    assert paper.explore.theta_merge == (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    assert paper.explore.theta_small == 1 / 1024
    assert (paper.instruct.batch_size, paper.instruct.steps) == (128, 40000)
    assert (paper.correct.steps, paper.correct.teacher_momentum, paper.correct.gamma) == (5000, 0.9995, 200)


def test_without_a_project_the_profile_that_comes_with_the_code_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_params_anywhere(Path("params.yaml")) == load_params(TEMPLATE.params)
    with pytest.raises(SohesError, match=r"no params file at mine\.yaml"):
        load_params_anywhere(Path("mine.yaml"))  # a file named explicitly must exist
    (tmp_path / "params.yaml").write_text(TEMPLATE.params.read_text().replace("seed: 0", "seed: 7", 1))
    assert load_params_anywhere(Path("params.yaml")).seed == 7
