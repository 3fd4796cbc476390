from pathlib import Path

import pytest
import torch

from sohes.model.footprint import activation_bytes, build, saved_bytes, training_footprint
from sohes.params import load_params

REPOSITORY = Path(__file__).parents[2]


def network(*, device="meta", **changes):
    params = load_params(REPOSITORY / "params.yaml")
    with torch.device(device):
        return build(params.model_copy(update={"model": params.model.model_copy(update=changes)}))


@pytest.mark.parametrize(
    ("profile", "processes", "millions", "limit_gb"),
    [
        ("params.yaml", 1, (1, 3), 2),  # any laptop
        ("params/one-gpu.yaml", 1, (30, 40), 23),  # one card of 24 GB, with CUDA's own share
        ("params/paper.yaml", 64, (110, 130), 79),  # 64 A100 of 80 GB
    ],
)
def test_every_profile_fits_the_machine_that_it_is_for(profile, processes, millions, limit_gb):
    """Built on the meta device, parameters and activations counted."""
    params = load_params(REPOSITORY / profile)
    for phase in (params.instruct, params.correct):
        need = training_footprint(params, phase, processes=processes)
        assert millions[0] < need.parameters / 1e6 < millions[1]
        assert need.state >= 6 * 4 * need.parameters
        assert need.activations > 4 * need.images * (params.model.image_size // 4) ** 2 * params.model.num_queries
        assert need.total < limit_gb * 1e9


def test_what_a_layer_keeps_can_be_counted_by_hand():
    """Two linear layers: the input, and what lies between them with its ReLU, each once."""
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).to("meta")
    x = torch.empty(10, 8, device="meta")
    assert saved_bytes(layers, lambda: layers(x), amp=False) == 4 * 10 * (8 + 16)


@pytest.mark.parametrize("amp", [False, True])
def test_the_count_is_near_what_a_real_pass_keeps(amp):
    """The CPU's own loops keep a little less than `grid_sample` does on a GPU."""
    real, kept = network(device="cpu"), {}
    weights = {p.untyped_storage().data_ptr() for p in real.parameters()}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    side = real.params.image_size
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=amp),
        torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
    ):
        real.train()(torch.randn(1, 3, side, side))
    measured = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
    assert measured < activation_bytes(network(), amp=amp) < 1.5 * measured


def test_recomputed_blocks_and_bfloat16_keep_less():
    plain = activation_bytes(network(), amp=False)
    assert activation_bytes(network(), amp=True) < plain
    recomputing = network(recompute_blocks=True)
    assert activation_bytes(recomputing, amp=False) < plain
    assert recomputing.adapter.recompute_blocks  # as it was


def test_a_frozen_vit_has_neither_optimizer_nor_average_and_keeps_less():
    params = load_params(REPOSITORY / "params.yaml")
    frozen = params.instruct.optim.model_copy(update={"backbone_lr_scale": 0.0})
    frozen_phase = params.instruct.model_copy(update={"optim": frozen})
    need, plain = (training_footprint(params, phase) for phase in (frozen_phase, params.instruct))
    vit = sum(p.numel() for p in network().backbone.parameters())
    assert need.parameters == plain.parameters
    assert plain.state - need.state == 4 * 6 * vit
    assert need.activations < plain.activations
    recomputing = network(recompute_blocks=True)
    recomputing.backbone.freeze()
    kept, vit_floats = activation_bytes(recomputing, amp=False), params.backbone.depth * 144 * params.backbone.embed_dim
    assert 4 * vit_floats < kept < need.activations


def test_more_queries_that_learn_a_target_need_more_up_to_all_of_them():
    params = load_params(REPOSITORY / "params.yaml")
    phase = params.instruct.model_copy(update={"max_targets": 10})
    need = []
    for wanted in (1, 2, 3, 10**6):
        loss = params.loss.model_copy(update={"queries_per_target": wanted})
        need.append(training_footprint(params.model_copy(update={"loss": loss}), phase).activations)
    assert need[2] - need[1] == need[1] - need[0] > 0
    assert need[3] - need[0] == (need[1] - need[0]) * (params.model.num_queries - 10) // 10


def test_accumulation_and_processes_share_the_images():
    params = load_params(REPOSITORY / "params.yaml")
    need = {}
    for accumulate, processes in ((1, 1), (2, 1), (2, 2)):
        phase = params.instruct.model_copy(update={"accumulate": accumulate, "batch_size": 8})
        need[accumulate, processes] = training_footprint(params, phase, processes=processes)
    assert [n.images for n in need.values()] == [8, 4, 2]
    assert need[1, 1].activations == 4 * need[2, 2].activations
    assert need[1, 1].state == need[2, 2].state
    with pytest.raises(ValueError, match=r"3 equal parts .* \(got 8 images\)"):
        training_footprint(params, phase.model_copy(update={"accumulate": 3}))
