import numpy as np
import pytest

from sohes.data.imaging import PADDING_RGB, letterbox
from sohes.masks import bounding_boxes, forest, mask_set
from sohes.params import AugmentParams
from sohes.train import augment
from sohes.train.augment import Guest, Labelled, View

STILL = AugmentParams(scale_min=1, scale_max=1, colour_jitter=0, greyscale=0, blur=0, copy_paste=0)


def random_masks(rng, n, height, width):
    return rng.random((n, height, width)) < 0.5


def draw(*pictures):
    """Masks from drawings: `#` is inside."""
    return np.array([[[c == "#" for c in row] for row in picture.split()] for picture in pictures])


def labelled(masks_NHW, parents, value=0):
    image = np.full((*masks_NHW.shape[1:], 3), value, np.uint8)
    return Labelled(image, masks_NHW, np.array(parents, np.int64))


# ---------------------------------------------------------------- geometry


def move_masks(masks, source, target):
    """Masks of one view of an image in another, pixel by pixel; false where the source view does not reach."""
    rows, columns, from_y, from_x = augment.shared_rectangle(source, target)
    moved = np.zeros((len(masks), *target.canvas_hw), bool)
    moved[:, rows, columns] = masks.take(from_y, axis=1).take(from_x, axis=2)
    return moved


def drawn(view, masks):
    """As the data set draws them."""
    return view.draw(mask_set(masks))


def inverted(masks, view):
    """Masks of a view, on the image."""
    return move_masks(masks, view, augment.whole(view.height, view.width))


def test_a_flipped_view_of_a_drawing():
    view = View(2, 3, (2, 3), (0, 0), True, (3, 3))
    seen = drawn(view, draw("##. #.."))
    assert np.array_equal(seen, draw(".## ..# ..."))
    assert np.array_equal(inverted(seen, view), draw("##. #.."))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("height", "width"), [(20, 32), (32, 20), (17, 31), (32, 32), (1, 9)])
def test_masks_go_there_and_back_exactly_in_the_weak_view(height, width, flip):
    rng = np.random.default_rng(0)
    masks = random_masks(rng, 4, height, width)
    view = augment.weak_view(height, width, size=32, rng=rng)
    view = View(view.height, view.width, view.resized_hw, view.offset_yx, flip, view.canvas_hw)
    assert np.array_equal(inverted(drawn(view, masks), view), masks)


@pytest.mark.parametrize("seed", range(20))
def test_an_enlarging_strong_view_gives_back_every_pixel_that_it_shows(seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 3, 20, 27)
    view = augment.strong_geometry(20, 27, size=32, scale_min=1.0, scale_max=2.5, rng=rng)
    everything = np.ones((1, 20, 27), bool)
    shown = inverted(drawn(view, everything), view)[0]
    back = inverted(drawn(view, masks), view)
    assert shown.any()
    assert np.array_equal(back, masks & shown)


@pytest.mark.parametrize("seed", range(20))
def test_moving_from_view_to_view_equals_going_through_the_image(seed):
    """With an enlarging source nothing is lost on the way, so the two roads must agree to the pixel."""
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 3, 20, 27)
    whole = int(rng.choice([1, 3]))  # a whole factor: every pixel becomes 1 x 1 or 3 x 3
    weak = augment.weak_view(20, 27, size=27 * whole, rng=rng)
    strong = augment.strong_geometry(20, 27, size=27 * 3, scale_min=0.2, scale_max=2.0, rng=rng)
    assert np.array_equal(move_masks(drawn(weak, masks), weak, strong), drawn(strong, masks))


@pytest.mark.parametrize("seed", range(20))
def test_the_shared_box_holds_what_moves_and_touches_it_on_all_sides(seed):
    rng = np.random.default_rng(seed)
    weak = augment.weak_view(20, 27, size=27, rng=rng)
    strong = augment.strong_geometry(20, 27, size=54, scale_min=0.5, scale_max=3.0, rng=rng)
    y0, x0, y1, x1 = augment.shared_box(weak, strong)
    pixels = np.eye(27 * 27, dtype=bool).reshape(-1, 27, 27)
    moved = move_masks(pixels, weak, strong).any((1, 2)).reshape(27, 27)
    assert moved[y0:y1, x0:x1].sum() == moved.sum() > 0
    assert all(side.any() for side in (moved[y0], moved[y1 - 1], moved[:, x0], moved[:, x1 - 1]))


@pytest.mark.parametrize("seed", range(20))
def test_a_view_shows_the_boxes_of_which_it_has_a_pixel(seed):
    rng = np.random.default_rng(seed)
    height, width = 24, 37
    view = augment.strong_geometry(height, width, size=32, scale_min=1.0, scale_max=3.0, rng=rng)
    masks, boxes = np.zeros((40, height, width), bool), []
    for mask in masks:
        y, x = rng.integers(height), rng.integers(width)
        h, w = rng.integers(1, height - y + 1), rng.integers(1, width - x + 1)
        mask[y : y + h, x : x + w] = True
        boxes.append((x, y, w, h))
    seen = view.shows(np.array(boxes, float))
    assert seen.tolist() == drawn(view, masks).any((1, 2)).tolist()
    assert 0 < seen.sum()


def test_a_view_beside_the_image_shows_no_box():
    view = View(8, 8, (8, 8), (40, 0), False, (16, 16))
    assert view.shows(np.array([[0.0, 0, 8, 8]])).tolist() == [False]


def test_the_weak_view_is_evaluations_letterbox():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    view = View(40, 30, (32, 24), (0, 0), False, (32, 32))
    square, content = letterbox(image, 32)
    weak = augment.weak_view(40, 30, size=32, rng=np.random.default_rng(0))
    assert weak.resized_hw == content
    assert np.array_equal(view.apply_to_image(image), square)


def test_image_and_masks_move_together():
    rng = np.random.default_rng(3)
    mask = np.zeros((1, 24, 32), bool)
    mask[0, 5:15, 8:20] = True
    image = np.where(mask[0, :, :, None], 255, 0).astype(np.uint8).repeat(3, 2)
    for _ in range(10):
        view = augment.strong_geometry(24, 32, size=64, scale_min=0.7, scale_max=2.0, rng=rng)
        seen, square = drawn(view, mask)[0], view.apply_to_image(image)[:, :, 0]
        y0, x0, y1, x1 = view.window
        differ = (square > 127) != seen
        assert differ[y0:y1, x0:x1].mean() < 0.02  # blends along the outline only
        assert not seen[:y0].any()
        assert not seen[:, x1:].any()


def test_a_view_without_anything_to_see_is_all_padding():
    view = View(4, 4, (4, 4), (9, 0), False, (8, 8))
    assert not drawn(view, np.ones((1, 4, 4), bool)).any()
    assert (view.apply_to_image(np.zeros((4, 4, 3), np.uint8)) == PADDING_RGB).all()


# ---------------------------------------------------------------- what is left of the labels


def square_masks(*boxes, size=32):
    masks = np.zeros((len(boxes), size, size), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_settle_drops_specks_and_relinks_their_children_to_the_grandparent():
    masks = square_masks((0, 0, 30, 30), (0, 0, 3, 3), (0, 0, 8, 8))
    left = augment.settle(labelled(masks, [-1, 0, 1]))
    assert np.array_equal(left.masks_NHW, masks[[0, 2]])
    assert left.parents_N.tolist() == [-1, 0]


def test_settle_drops_a_child_that_a_crop_made_as_large_as_its_parent():
    masks = square_masks((0, 0, 20, 20), (0, 0, 20, 19), (0, 0, 10, 10))
    left = augment.settle(labelled(masks, [-1, 0, 1]))
    assert np.array_equal(left.masks_NHW, masks[[0, 2]])
    assert left.parents_N.tolist() == [-1, 0]


def test_pasting_a_root_with_its_parts_hides_what_is_below():
    host = labelled(square_masks((0, 0, 32, 32), (0, 0, 10, 10), (0, 0, 10, 5)), [-1, 0, 1], value=10)
    guest = labelled(square_masks((0, 0, 10, 10), (0, 0, 5, 10)), [-1, 0], value=200)
    both = augment.paste(host, guest)
    assert both.parents_N.tolist() == [-1, -1, 1]  # the hidden part and subpart are gone, the guest came as a family
    assert both.masks_NHW.sum((1, 2)).tolist() == [32 * 32 - 100, 100, 50]
    assert (both.image_HW3[:10, :10] == 200).all()
    assert (both.image_HW3[10:] == 10).all()


def test_a_partly_hidden_mask_keeps_what_shows():
    host = labelled(square_masks((0, 0, 10, 20)), [-1])
    guest = labelled(square_masks((0, 0, 10, 10)), [-1])
    both = augment.paste(host, guest)
    assert both.masks_NHW[0].sum() == 100
    assert not (both.masks_NHW[0] & both.masks_NHW[1]).any()


@pytest.mark.parametrize("seed", range(15))
def test_strong_views_keep_a_forest_whose_parents_are_larger_and_cover_their_children(seed):
    rng = np.random.default_rng(seed)
    masks = square_masks((0, 0, 24, 30), (2, 2, 20, 14), (4, 4, 12, 12), (2, 16, 20, 28), size=40)
    found = mask_set(square_masks((0, 0, 16, 16), (3, 3, 12, 12), size=16), parents=[-1, 0])
    guest = Guest.cut_out(np.full((16, 16, 3), 99, np.uint8), found)
    params = STILL.model_copy(update={"scale_min": 0.4, "scale_max": 2.5, "colour_jitter": 0.5, "blur": 0.5})
    view = augment.strong_geometry(40, 40, size=48, scale_min=0.4, scale_max=2.5, rng=rng)
    image = labelled(masks, [-1, 0, 1, 0])
    shown = augment.Labelled(view.apply_to_image(image.image_HW3), drawn(view, masks), image.parents_N)
    strong = augment.augmented(shown, view, params, max_targets=9, rng=rng, guest=guest)
    areas = strong.masks_NHW.sum((1, 2))
    assert (areas >= augment.MIN_PIXELS).all()
    for above, below in np.argwhere(forest.forest_ancestors(strong.parents_N)):
        assert areas[above] > areas[below]
        assert (strong.masks_NHW[above] | ~strong.masks_NHW[below]).all()
    y0, x0, y1, x1 = view.window
    outside = np.ones((48, 48), bool)
    outside[y0:y1, x0:x1] = False
    assert (strong.image_HW3[outside] == PADDING_RGB).all()
    assert not strong.masks_NHW[:, outside].any()


@pytest.mark.parametrize("seed", range(12))
def test_a_guest_is_drawn_where_it_lands_as_if_cut_out_at_full_size(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(30, 90, 2))
    dense = np.zeros((4, height, width), bool)
    for mask in dense[:3]:
        y, x = rng.integers(5, 12, 2)
        mask[y : y + 15, x : x + 15] = rng.random((15, 15)) < 0.7
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    y0, x0, y1, x1 = bounding_boxes(dense.any(0)[None])[0]
    cut = labelled(dense[:, y0:y1, x0:x1], [-1, 0, 0, 0])
    guest = Guest.cut_out(image, mask_set(dense, parents=[-1, 0, 0, 0]))
    assert np.array_equal(guest.image_HW3, image[y0:y1, x0:x1])
    host = augment.strong_geometry(40, 50, size=64, scale_min=0.5, scale_max=2.0, rng=rng)
    view = augment.guest_view(guest, host, scale_min=0.5, scale_max=2.0, rng=rng)
    assert np.array_equal(view.draw(guest.found, corner_yx=guest.corner_yx), drawn(view, cut.masks_NHW))
    assert drawn(view, cut.masks_NHW).any()


def test_subtree_is_the_root_and_all_below():
    assert augment.subtree(np.array([-1, 0, 1, -1, 3, 0]), 0).tolist() == [0, 1, 2, 5]
    assert augment.subtree(np.array([-1, 0, 1, -1, 3, 0]), 3).tolist() == [3, 4]


# ---------------------------------------------------------------- colour


def test_colours_stay_without_strength():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    same = augment.change_colours(image, jitter=0, greyscale=0, blur=0, rng=np.random.default_rng(0))
    assert np.abs(same.astype(int) - image).max() <= 1


def test_greyscale_has_one_channel_worth_of_colour():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    grey = augment.change_colours(image, jitter=0.4, greyscale=1, blur=0, rng=np.random.default_rng(0)).astype(int)
    assert np.abs(grey - grey[:, :, :1]).max() <= 1
    assert grey.std() > 10


def test_blur_smooths():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    blurred = augment.change_colours(image, jitter=0, greyscale=0, blur=1, rng=np.random.default_rng(1))
    assert blurred.std() < 0.8 * image.std()


# ---------------------------------------------------------------- sampling


def test_few_masks_are_all_kept():
    assert augment.sample_across_scales(np.array([5, 9]), 3, rng=np.random.default_rng(0)).tolist() == [0, 1]


def test_every_scale_is_sampled_although_small_masks_are_many():
    areas = np.array([20] * 90 + [400] * 9 + [10_000])
    for seed in range(20):
        kept = augment.sample_across_scales(areas, 9, rng=np.random.default_rng(seed))
        assert len(set(kept.tolist())) == 9
        assert 99 in kept  # uniform sampling would miss the only large one nine times in ten
        assert (areas[kept] == 400).sum() == 4


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_drawn_from_run_lengths_as_they_are_moved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 60, 2))
    dense = rng.random((4, height, width)) < rng.uniform(0.05, 0.95, (4, 1, 1))
    dense[0], dense[1] = True, False
    view = augment.strong_geometry(height, width, size=48, scale_min=0.2, scale_max=3.0, rng=rng)
    whole = augment.whole(view.height, view.width)
    np.testing.assert_array_equal(drawn(view, dense), move_masks(dense, whole, view))
