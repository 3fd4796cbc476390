import numpy as np

from sohes import masks
from sohes.evaluate import pictures

IMAGE = np.full((8, 8, 3), 100, np.uint8)
WHOLE_AND_PART = np.zeros((2, 8, 8), bool)
WHOLE_AND_PART[0, 1:7, 1:7] = True
WHOLE_AND_PART[1, 2:4, 2:4] = True
FOUND = masks.mask_set(WHOLE_AND_PART, scores=np.array([0.9, 0.2]), parents=np.array([-1, 0]))


def test_overlay_changes_pixels_inside_the_masks_only():
    drawn = pictures.overlay(IMAGE, FOUND)
    assert np.array_equal(np.any(drawn != IMAGE, axis=2), WHOLE_AND_PART[0])


def test_overlay_of_a_level_draws_that_level_only():
    drawn = pictures.overlay(IMAGE, FOUND, level=1)
    assert np.array_equal(np.any(drawn != IMAGE, axis=2), WHOLE_AND_PART[1])


def test_contact_sheet_has_four_panels():
    assert pictures.contact_sheet(IMAGE, FOUND, gap=2).shape == (8 + 5, 4 * 8 + 3 * 2, 3)


def test_the_last_panel_shows_whatever_lies_below_parts():
    nested = np.zeros((5, 64, 64), bool)
    for depth, mask in enumerate(nested):
        side = (60, 40, 26, 16, 10)[depth]
        mask[:side, :side] = True
    found = masks.mask_set(nested, scores=np.ones(5), parents=np.arange(-1, 4))
    image = np.full((64, 64, 3), 100, np.uint8)
    sheet = pictures.contact_sheet(image, found, gap=2)[:64]
    whole, parts, below = (np.any(sheet[:, x : x + 64] != 100, axis=2) for x in (66, 132, 198))
    for panel, mask in ((whole, nested[0]), (parts, nested[1]), (below, nested[2])):
        np.testing.assert_array_equal(panel, mask)
    exact = pictures.overlay(image, found, level=2)
    assert (sheet[:, 198:] != exact).any()  # masks three and four are in it, too


def test_a_mask_of_nearly_all_of_its_parent_is_shown_beside_it():
    nested = np.zeros((3, 64, 64), bool)
    for mask, side in zip(nested, (60, 50, 20), strict=True):
        mask[:side, :side] = True
    found = masks.mask_set(nested, scores=np.ones(3), parents=np.arange(-1, 2))
    image = np.full((64, 64, 3), 100, np.uint8)
    sheet = pictures.contact_sheet(image, found, gap=2)[:64]
    whole, parts, below = (sheet[:, x : x + 64] for x in (66, 132, 198))
    alone = pictures.overlay(image, found, level=0)
    assert (whole != alone).any()  # the second one is there, too
    np.testing.assert_array_equal(np.any(whole != image, axis=2), nested[0])
    np.testing.assert_array_equal(np.any(parts != image, axis=2), nested[2])
    assert (below == image).all()


def test_strongest_keeps_the_ten_best_even_if_all_are_weak():
    apart = np.eye(30, dtype=bool).repeat(4, 1)[:, None].repeat(4, 1)
    weak = masks.mask_set(apart, scores=np.linspace(0, 0.3, 30))
    kept = pictures.strongest(weak)
    assert len(kept) == 10
    assert np.isclose(kept.scores.min(), weak.scores[20])


def test_of_masks_that_look_alike_only_the_strongest_is_drawn():
    """Three of nearly one kind, of which the second scores best, and their part."""
    drawn = np.zeros((4, 40, 2000), bool)
    for mask, right in zip(drawn, (1000, 960, 900, 500), strict=True):
        mask[:, :right] = True
    found = masks.mask_set(drawn, scores=np.array([0.7, 0.9, 0.8, 0.6]), parents=np.array([-1, 0, 1, 2]))
    assert pictures.places_of_strongest(found).tolist() == [1, 3]
    assert pictures.strongest(found).parents.tolist() == [-1, 0]
    assert pictures.places_of_strongest(masks.empty_mask_set(40, 2000)).tolist() == []


def test_a_mask_of_the_whole_picture_is_drawn_only_where_there_is_no_other():
    drawn = np.ones((3, 40, 60), bool)
    drawn[1, :, 56:] = drawn[2, 20:] = False
    found = masks.mask_set(drawn, scores=np.array([0.9, 0.8, 0.7]), parents=np.array([-1, 0, 1]))
    assert pictures.places_of_strongest(found).tolist() == [1, 2]
    assert pictures.strongest(found).parents.tolist() == [-1, 0]
    assert pictures.places_of_strongest(masks.mask_set(drawn[:1])).tolist() == [0]


def test_colours_are_distinct():
    assert len({tuple(c) for c in pictures.colours(50).tolist()}) == 50
