"""The whole loss against hand-computed values, transformers' Mask2Former, and the traps others fell into.

B images, Q queries, T targets; maps are a quarter of the image's size.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from sohes.losses import criterion as criterion_module
from sohes.losses.criterion import ENTITY, NOTHING, UNTOLD, class_loss, criterion
from sohes.losses.matcher import assign, matching_cost, resemblance
from sohes.losses.points import UncertainPoints, compare
from sohes.params import LossParams
from sohes.structures import ModelOutput, Targets

PARAMS = LossParams(
    class_weight=2,
    matching_class_weight=2,
    queries_per_target=1,
    near_dice=0.7,
    mask_weight=5,
    dice_weight=5,
    ancestor_weight=1,
    no_object_weight=0.1,
    num_points=0,
    oversample_ratio=3,
    importance_fraction=0.75,
    deep_supervision=True,
    matched_only=False,
)
SAMPLED = PARAMS.model_copy(update={"num_points": 64})
PARTS = ("class", "mask", "dice", "ancestor")


def make_output(batch: int = 2, queries: int = 6, layers: int = 3, seed: int = 0) -> ModelOutput:
    draw = torch.Generator().manual_seed(seed)
    made = [
        ModelOutput(
            torch.randn(batch, queries, 2, generator=draw).requires_grad_(),
            torch.randn(batch, queries, 8, 8, generator=draw).requires_grad_(),
            torch.randn(batch, queries, queries, generator=draw).requires_grad_() if layer == layers - 1 else None,
        )
        for layer in range(layers)
    ]
    last = made[-1]
    return ModelOutput(last.class_logits_BQ2, last.mask_logits_BQhw, last.ancestor_logits_BQQ, tuple(made[:-1]))


def leaves(output: ModelOutput) -> list[torch.Tensor]:
    layers = (output, *output.auxiliary)
    found = [leaf for layer in layers for leaf in (layer.class_logits_BQ2, layer.mask_logits_BQhw)]
    return [*found, *(layer.ancestor_logits_BQQ for layer in layers if layer.ancestor_logits_BQQ is not None)]


def make_targets(*counts: int, seed: int = 1) -> tuple[Targets, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        Targets(torch.rand(count, 32, 32, generator=draw) > 0.6, torch.rand(count, count, generator=draw).triu(1) > 0.5)
        for count in counts
    )


def test_one_query_one_target_by_hand():
    # All logits zero: p = 1/2 everywhere. The target covers one of the map's four cells.
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, :2, :2] = True
    output = ModelOutput(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1))
    losses = criterion(output, (Targets(target, torch.zeros(1, 1, dtype=torch.bool)),), PARAMS)
    assert losses["class"].item() == pytest.approx(2 * math.log(2))
    assert losses["mask"].item() == pytest.approx(5 * math.log(2))
    assert losses["dice"].item() == pytest.approx(5 * (1 - 2 / 4))  # 1 - (2 * 0.5 + 1) / (2 + 1 + 1)
    assert losses["ancestor"].item() == pytest.approx(math.log(2))


def test_class_loss_by_hand():
    # query 0 is an entity; both are undecided: (1 * ln 2 + 0.1 * ln 2) / 1.1
    labels = torch.tensor([[ENTITY, NOTHING]])
    assert class_loss(torch.zeros(1, 2, 2), labels, 0.1).item() == pytest.approx(math.log(2))
    sure = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]])
    expected = (-math.log(0.75) + 0.1 * math.log(2)) / 1.1
    assert class_loss(sure, labels, 0.1).item() == pytest.approx(expected, rel=1e-6)
    with_third = torch.cat([sure, torch.tensor([[[9.0, 0.0]]])], 1)
    untold = class_loss(with_third, torch.tensor([[ENTITY, NOTHING, UNTOLD]]), 0.1)
    assert untold.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("params", [PARAMS, SAMPLED], ids=["cells", "points"])
def test_parts_are_detached_and_add_up(params):
    losses = criterion(make_output(), make_targets(3, 2), params)
    assert set(losses) == {"loss", *PARTS}
    assert losses["loss"].requires_grad
    assert not any(losses[name].requires_grad for name in PARTS)
    torch.testing.assert_close(losses["loss"].detach(), sum(losses[name] for name in PARTS))


@pytest.mark.parametrize("params", [PARAMS, SAMPLED], ids=["cells", "points"])
def test_perfect_predictions_cost_almost_nothing_and_stay_matched(params):
    boxes = torch.zeros(2, 32, 32, dtype=torch.bool)
    boxes[0, :, :16] = True
    boxes[1, 8:16, 20:28] = True
    logits = (boxes[[1, 0], 2::4, 2::4].float() * 2 - 1)[None] * 40  # in the other order
    ancestors = torch.tensor([[0, 1], [0, 0]]).bool()
    relation = (ancestors.T.float() * 2 - 1)[None] * 40
    output = ModelOutput(torch.tensor([[[40.0, 0], [40, 0]]]), logits, relation)
    losses = criterion(output, (Targets(boxes, ancestors),), params)
    assert losses["class"] + losses["ancestor"] < 1e-6
    if params is PARAMS:
        assert losses["loss"] < 1e-4
    else:  # interpolated points near an edge are not exact; a swapped matching would cost hundreds
        assert losses["loss"] < 25


@pytest.mark.parametrize("queries_per_target", [1, 3])
@pytest.mark.parametrize("matched_only", [False, True])
@pytest.mark.parametrize("params", [PARAMS, SAMPLED], ids=["cells", "points"])
@pytest.mark.parametrize(
    "counts", [(0, 0), (0, 3), (3, 0), (9, 1)], ids=["no target", "first empty", "last empty", "T > Q"]
)
def test_awkward_counts_are_finite_and_reach_every_head(counts, params, matched_only, queries_per_target):
    output = make_output()
    update = {"matched_only": matched_only, "queries_per_target": queries_per_target, "near_dice": 0.3}
    params = params.model_copy(update=update)
    losses = criterion(output, make_targets(*counts), params)
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves(output))
    if not any(counts):
        assert losses["mask"] == losses["dice"] == 0
        assert (losses["ancestor"] == 0) == matched_only
        assert losses["class"] > 0


def test_no_target_and_no_weight_for_no_object_is_zero_not_nan():
    losses = criterion(make_output(), make_targets(0, 0), PARAMS.model_copy(update={"no_object_weight": 0.0}))
    assert losses["class"] == 0


def test_each_layer_is_matched_on_its_own():
    # Layer 1 draws the targets in order, the last one swapped: both are right.
    halves = torch.zeros(2, 8, 8, dtype=torch.bool)
    halves[0, :, :4] = True
    halves[1, :, 4:] = True
    logits = (halves[:, 2::4, 2::4].float() * 2 - 1)[None] * 40
    certain = torch.tensor([[[40.0, 0], [40, 0]]])
    last = ModelOutput(certain, logits.flip(1), None, (ModelOutput(certain, logits, None),))
    assert criterion(last, (Targets(halves, torch.zeros(2, 2, dtype=torch.bool)),), PARAMS)["loss"] < 1e-4


@pytest.mark.parametrize(("weight", "winner"), [(0, 0), (2, 1)])
def test_matching_heeds_the_class_head_by_matching_class_weight_alone(weight, winner):
    half = torch.zeros(1, 8, 8, dtype=torch.bool)
    half[:, :, :4] = True
    drawn = half[:, 2::4, 2::4].float() * 2 - 1
    better, likelier = drawn * 3, drawn * 2
    classes = torch.tensor([[[-5.0, 5.0], [5.0, -5.0]]])
    output = ModelOutput(classes, torch.stack([better, likelier], 1), None)
    params = PARAMS.model_copy(update={"matching_class_weight": weight})
    losses = criterion(output, (Targets(half, torch.zeros(1, 1, dtype=torch.bool)),), params)
    class_part = 2 * 10 if winner == 0 else 0  # class_weight x cross-entropy: both queries are told wrongly, or none
    assert losses["class"].item() == pytest.approx(class_part, abs=1e-3)
    assert losses["mask"].item() == pytest.approx(5 * math.log1p(math.exp(-3 if winner == 0 else -2)), rel=1e-4)


@pytest.mark.parametrize(
    ("wanted", "told", "learning"),
    [
        (1, [1, 1, 1, 1, -1], [4]),  # Mask2Former's matching: all but one are told that they are nothing
        (2, [0, -1, 1, 1, -1], [1, 4]),  # the other one that is alike is told nothing
        (3, [-1, -1, 1, 1, -1], [0, 1, 4]),
        (9, [-1, -1, 1, 1, -1], [0, 1, 4]),  # there are no more
    ],
)
def test_queries_that_resemble_a_target_learn_it_too(wanted, told, learning):
    half = torch.zeros(1, 8, 8, dtype=torch.bool)
    half[:, :, :4] = True
    drawn = half[:, 2::4, 2::4].float() * 2 - 1
    logits = {0: 2, 1: 3, 2: -9, 3: 0, 4: 4}  # ever better, but for the third and fourth
    masks = torch.stack([drawn * logit for logit in logits.values()], 1).requires_grad_()
    classes = torch.zeros(1, 5, 2, requires_grad=True)
    params = PARAMS.model_copy(update={"queries_per_target": wanted})
    none = torch.zeros(1, 1, dtype=torch.bool)
    losses = criterion(ModelOutput(classes, masks, None), (Targets(half, none),), params)
    losses["loss"].backward()
    assert classes.grad[0, :, 0].sign().tolist() == told
    assert masks.grad.abs().sum((0, 2, 3)).nonzero()[:, 0].tolist() == learning
    bce = sum(math.log1p(math.exp(-logits[query])) for query in learning) / len(learning)
    assert losses["mask"].item() == pytest.approx(5 * bce, rel=1e-5)
    missed = [1 / (1 + math.exp(logits[query])) for query in learning]  # 1 - p, in all four cells, two of them covered
    overlap = sum(1 - (4 * (1 - m) + 1) / (2 + 2 + 1) for m in missed) / len(learning)
    assert losses["dice"].item() == pytest.approx(5 * overlap, rel=1e-5)


@pytest.mark.parametrize("params", [PARAMS, SAMPLED], ids=["cells", "points"])
@pytest.mark.parametrize(("wanted", "near"), [(2, 0.5), (3, 0.45), (4, 0.5)])
def test_who_learns_is_what_plain_loops_find(wanted, near, params):
    counts, queries, layers = (2, 0, 5, 9), 7, 3
    output, targets = make_output(len(counts), queries, layers), make_targets(*counts)
    params = params.model_copy(update={"queries_per_target": wanted, "near_dice": near})
    every = (*output.auxiliary, output)
    comparison = compare(criterion_module._of_all(every), [target.masks_THW for target in targets], params)
    found = criterion_module._match_layers(every, counts, comparison, params)
    learned, shares, several = set(), {}, 0
    for layer in range(layers):
        for image, count in enumerate(counts):
            target_TP = comparison.matching_TP[sum(counts[:image]) :][:count]
            logits = comparison.matching_logits(image)[layer * queries :][:queries]
            costs = {"class_weight": 2, "mask_weight": 5, "dice_weight": 5}
            pairs = assign(matching_cost(every[layer].class_logits_BQ2[image], logits, target_TP, **costs).numpy())
            matched = dict(zip(*(index.tolist() for index in pairs), strict=True))
            dice, like = (row.tolist() for row in resemblance(logits, target_TP))
            others = [query for query in range(queries) if query not in matched and dice[query] >= near]
            for query in sorted(others, key=lambda query: -dice[query]):
                if sum(target == like[query] for target in matched.values()) < wanted:
                    matched[query] = int(like[query])
                    several += 1
            told = [ENTITY if q in matched else UNTOLD if q in others else NOTHING for q in range(queries)]
            assert found.labels_LBQ[layer, image].tolist() == told
            got = dict(zip(*(index.tolist() for index in found.of_layers[layer][image]), strict=True))
            assert got == matched
            for query, target in matched.items():
                of_batch = sum(counts[:image]) + target
                learned.add((image, layer * queries + query, of_batch))
                shares[image, layer * queries + query] = list(matched.values()).count(target)
    assert several > 5
    rows = [(b, *pair) for b in range(len(counts)) for pair in zip(*_both(found, b), strict=True)]
    assert len(rows) == len(learned)
    assert set(rows) == learned
    assert found.size_M.tolist() == [shares[image, query] for image, query, _ in rows]


def _both(found, image: int) -> tuple[list[int], list[int]]:
    return found.queries[image].tolist(), found.targets[image].tolist()


def test_deep_supervision_sums_the_layers():
    output, targets = make_output(), make_targets(3, 2)
    apart = PARAMS.model_copy(update={"deep_supervision": False})
    alone = [criterion(layer, targets, apart) for layer in (output, *output.auxiliary)]
    together = criterion(output, targets, PARAMS)
    for name in ("loss", *PARTS):
        torch.testing.assert_close(together[name], sum(losses[name] for losses in alone))


def test_the_images_of_a_batch_do_not_mix():
    output, targets = make_output(layers=1), make_targets(3, 2)
    together = criterion(output, targets, PARAMS)
    alone = [
        criterion(
            ModelOutput(
                output.class_logits_BQ2[i : i + 1],
                output.mask_logits_BQhw[i : i + 1],
                output.ancestor_logits_BQQ[i : i + 1],
            ),
            targets[i : i + 1],
            PARAMS,
        )
        for i in range(2)
    ]
    for name in ("mask", "dice"):  # sums over masks, divided by 5 together, by 3 and 2 apart
        torch.testing.assert_close(together[name] * 5, alone[0][name] * 3 + alone[1][name] * 2)
    torch.testing.assert_close(together["ancestor"] * 2, alone[0]["ancestor"] + alone[1]["ancestor"])


def test_matched_only_ignores_the_pairs_of_unmatched_queries():
    output, targets = make_output(batch=1, layers=1), make_targets(2)
    everyone = criterion(output, targets, PARAMS)["ancestor"]
    matched = PARAMS.model_copy(update={"matched_only": True})
    losses = criterion(output, targets, matched)
    losses["loss"].backward()
    assert (output.ancestor_logits_BQQ.grad != 0).sum() == 4  # 2 x 2 matched pairs
    assert losses["ancestor"] != everyone


def test_one_generator_seed_gives_one_loss():
    output, targets = make_output(), make_targets(3, 2)
    values = [criterion(output, targets, SAMPLED, torch.Generator().manual_seed(s))["loss"].item() for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_autocast_does_not_lower_the_precision():
    output, targets = make_output(), make_targets(3, 2)
    expected = criterion(output, targets, PARAMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(output, targets, PARAMS)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.equal(losses[name], expected[name]) for name in losses)


def test_bfloat16_outputs_are_lifted_to_float32():
    output = make_output()
    low = ModelOutput(
        output.class_logits_BQ2.bfloat16(), output.mask_logits_BQhw.bfloat16(), output.ancestor_logits_BQQ.bfloat16()
    )
    same = ModelOutput(low.class_logits_BQ2.float(), low.mask_logits_BQhw.float(), low.ancestor_logits_BQQ.float())
    targets = make_targets(3, 2)
    assert criterion(low, targets, PARAMS)["loss"] == criterion(same, targets, PARAMS)["loss"]


def test_a_wrong_number_of_targets_is_named():
    with pytest.raises(ValueError, match=r"got 1 for 2 images"):
        criterion(make_output(), make_targets(3), PARAMS)


def test_gradient_descent_on_the_logits_recovers_the_targets():
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 4:28, 4:28] = True
    masks[1, 8:16, 8:16] = True
    masks[2, 18:24, 10:26] = True
    ancestors = torch.tensor([[0, 1, 1], [0, 0, 0], [0, 0, 0]]).bool()
    output = make_output(batch=1, queries=5, layers=1)
    optimiser = torch.optim.Adam(leaves(output), lr=0.3)
    for _ in range(150):
        optimiser.zero_grad()
        criterion(output, (Targets(masks, ancestors),), PARAMS)["loss"].backward()
        optimiser.step()
    kept = output.class_logits_BQ2[0].argmax(1) == 0
    assert kept.sum() == 3
    up = torch.nn.functional.interpolate(output.mask_logits_BQhw[:, kept], size=(32, 32), mode="bilinear")[0] > 0
    iou = (up[:, None] & masks).sum((2, 3)) / (up[:, None] | masks).sum((2, 3))
    best = iou.argmax(1)
    assert sorted(best.tolist()) == [0, 1, 2]
    assert iou.max(1).values.min() > 0.85
    relation = output.ancestor_logits_BQQ[0][kept][:, kept] > 0
    assert torch.equal(relation, ancestors[best][:, best])


@pytest.fixture
def transformers_loss():
    """transformers' criterion of our size, with its draws of points under our control."""
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former

    config = Mask2FormerConfig(train_num_points=SAMPLED.num_points)
    config.num_labels = 1
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    return modeling_mask2former.Mask2FormerLoss(config, weights)


def reference_losses(transformers_loss, output: ModelOutput, targets: tuple[Targets, ...]) -> dict[str, torch.Tensor]:
    return transformers_loss(
        output.mask_logits_BQhw,
        output.class_logits_BQ2,
        [target.masks_THW.float() for target in targets],
        [torch.zeros(len(target.masks_THW), dtype=torch.int64) for target in targets],
        [
            {"masks_queries_logits": layer.mask_logits_BQhw, "class_queries_logits": layer.class_logits_BQ2}
            for layer in output.auxiliary
        ],
    )


@pytest.mark.parametrize("counts", [(4, 2), (1, 9), (3, 5)])
def test_parity_with_transformers_on_the_same_points(monkeypatch, transformers_loss, counts):
    output, targets = make_output(seed=5), make_targets(*counts, seed=6)
    predicted = criterion_module._of_all((output,))
    points = compare(predicted, [t.masks_THW for t in targets], SAMPLED, torch.Generator().manual_seed(0))
    assert isinstance(points, UncertainPoints)
    by_number = {
        64: points.matching_P2,
        64 * 3: points.candidates_S2,
        16: points.uniform_U2,
    }
    ours = criterion(output, targets, SAMPLED, torch.Generator().manual_seed(0))
    ours["loss"].backward()
    our_gradients = [leaf.grad.clone() for leaf in leaves(output) if leaf.shape[-1] != leaf.shape[-2] or leaf.ndim == 4]
    for leaf in leaves(output):
        leaf.grad = None
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda count, number, _, device: by_number[number].repeat(count, 1, 1))
        theirs = reference_losses(transformers_loss, output, targets)
    names = {"class": ("loss_cross_entropy", 2), "mask": ("loss_mask", 5), "dice": ("loss_dice", 5)}
    total = torch.zeros(())
    for part, (name, weight) in names.items():
        summed = weight * sum(value for key, value in theirs.items() if key.startswith(name))
        torch.testing.assert_close(ours[part], summed.detach(), rtol=1e-5, atol=1e-4)
        total = total + summed
    total.backward()
    their_gradients = [leaf.grad for leaf in leaves(output) if leaf.grad is not None]
    assert len(our_gradients) == len(their_gradients) == 6
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_matching_parity_with_transformers(monkeypatch, transformers_loss):
    output, targets = make_output(queries=12, seed=7), make_targets(5, 9, seed=8)
    predicted = criterion_module._of_all((output,))
    comparison = compare(predicted, [t.masks_THW for t in targets], SAMPLED, torch.Generator().manual_seed(0))
    (ours,) = criterion_module._match_layers((output,), (5, 9), comparison, SAMPLED).of_layers
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda count, number, _, device: comparison.matching_P2[None])
        theirs = transformers_loss.matcher(
            output.mask_logits_BQhw,
            output.class_logits_BQ2,
            [target.masks_THW.float() for target in targets],
            [torch.zeros(len(target.masks_THW), dtype=torch.int64) for target in targets],
        )
    for mine, other in zip(ours, theirs, strict=True):
        assert [index.tolist() for index in mine] == [index.tolist() for index in other]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(3, size) for name, size in (("c", 2), ("m", 64), ("a", 6))})
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = heads

        def forward(self, features):
            return self.heads["c"](features), self.heads["m"](features).unflatten(-1, (8, 8)), self.heads["a"](features)

    # find_unused_parameters is off: a head without a gradient path would stop the second step
    network = torch.nn.parallel.DistributedDataParallel(Network())
    features = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(rank))
    targets = make_targets(3, 2) if rank == 0 else make_targets(0, 0)
    for _ in range(2):
        losses = criterion(ModelOutput(*network(features)), targets, PARAMS)
        losses["loss"].backward()
    gradients = np.concatenate([parameter.grad.flatten().numpy() for parameter in network.parameters()])
    torch.distributed.destroy_process_group()
    alone = criterion(ModelOutput(*network.module(features)), targets, PARAMS)
    np.savez(Path(folder) / f"{rank}.npz", gradients=gradients, mask=losses["mask"], mask_alone=alone["mask"])


def test_a_process_without_targets_trains_along(tmp_path):
    multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    with_targets, without = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    np.testing.assert_array_equal(with_targets["gradients"], without["gradients"])
    assert np.isfinite(without["gradients"]).all()
    assert without["mask"] == 0
    # 5 targets on 2 processes: each divides by 2.5, and DDP's mean over the two comes to 5
    assert with_targets["mask"] == pytest.approx(2 * with_targets["mask_alone"])


def test_queries_that_learn_nothing_are_held_to_the_teacher_in_the_last_layer_alone():
    output, targets, teacher = make_output(), make_targets(2, 1), make_output(seed=5)
    without = criterion(output, targets, PARAMS)
    held = criterion(output, targets, PARAMS, teacher=teacher)
    assert "hold" not in without
    assert held["loss"].item() == pytest.approx(sum(held[name].item() for name in (*PARTS, "hold")), rel=1e-5)
    assert all(held[name] == without[name] for name in ("mask", "dice", "ancestor"))
    parts = torch.autograd.grad(held["loss"] - without["loss"], leaves(output), allow_unused=True)
    moved = [part is not None and bool(part.abs().max() > 1e-6) for part in parts]
    assert moved == [True, True, *[False] * (len(moved) - 2)]  # classes and masks of the last layer


def test_what_a_teacher_says_stands_in_place_of_nothing():
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    labels, said = torch.tensor([[ENTITY, NOTHING, UNTOLD]]), torch.tensor([[[0.0, 1.0], [0.75, 0.25], [1.0, 0.0]]])
    entity, held = math.log(2), math.log(1 + math.e) - 0.75
    assert class_loss(logits, labels, 0.1, said).item() == pytest.approx((entity + 0.1 * held) / 1.1)
