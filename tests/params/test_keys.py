import pytest

from sohes.errors import SohesError
from sohes.params import load_params
from sohes.params.keys import nearest, parse_changes, set_keys
from sohes.project import TEMPLATE


def test_values_are_read_as_yaml_and_the_last_for_a_key_counts():
    settings = ["a=1", "b.c=[0.5, 1e-3]", "d=none", "e=null", "f=x=y", "g={h: on}", "i=", "a=012"]
    changes = {"a": 12, "b.c": [0.5, 0.001], "d": "none", "e": None, "f": "x=y", "g": {"h": "on"}, "i": None}
    assert parse_changes(settings) == changes
    assert parse_changes(None) == {}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("explore.refiner", "^--set explore.refiner: write KEY=VALUE, such as --set explore.refiner=none$"),
        ("=none", "^--set =none: write KEY=VALUE"),
        ("a=[1", r"^--set a=\[1 is not valid YAML: "),
        ("a={b: 1, b: 2}", 'duplicate key "b" in line 1: remove one of the two'),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_sentence(setting, sentence):
    with pytest.raises(SohesError, match=sentence) as caught:
        parse_changes([setting])
    assert "\n" not in str(caught.value)


def test_keys_are_set_at_every_depth_and_a_section_as_a_whole():
    values = {"seed": 0, "one": {"two": {"three": 3, "four": 4}, "list": [1]}}
    set_keys(values, {"seed": 1, "one.two.three": 0, "one.list": []}, who="the test", file="here")
    assert values == {"seed": 1, "one": {"two": {"three": 0, "four": 4}, "list": []}}
    set_keys(values, {"one.two": {"three": 9}}, who="the test", file="here")
    assert values["one"]["two"] == {"three": 9}


@pytest.mark.parametrize("key", ["five", "one.three", "one.two.three.four", "one.list.0", "seed.one", "", "one."])
def test_a_key_that_is_not_there_is_never_added(key):
    values = {"seed": 0, "one": {"two": {"three": 3}, "list": [1]}}
    with pytest.raises(SohesError, match=r"^the test sets .*, which here does not have: "):
        set_keys(values, {key: 1}, who="the test", file="here")
    assert values == {"seed": 0, "one": {"two": {"three": 3}, "list": [1]}}


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("loss.dice_wieght", "did you mean loss.dice_weight?"),
        ("evaluat", "did you mean evaluate?"),
        ("amp", "did you mean explore.amp or "),
        ("correct.nms_iuo", "did you mean correct.nms_iou?"),
        ("wings", "`sohes params` prints all that there are"),
    ],
)
def test_the_nearest_keys_are_named(key, remedy):
    known = ["explore.amp", "optim.amp", "loss.dice_weight", "loss.mask_weight", "evaluate", "evaluate.nms_iou"]
    known += ["correct.nms_iou", "correct.gamma"]
    assert nearest(key, known).startswith(remedy)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"explore.nms_iuo": 0.5},
            r"the command line sets .*, which .*params\.yaml does not have: did you mean explore",
        ),
        (
            {"explore.nms_iou": 1.5},
            r"params\.yaml with --set explore\.nms_iou: .* less than or equal to 1 \(got 1\.5\)",
        ),
        ({"backbone.num_heads": 5}, "with --set backbone.num_heads: backbone: num_heads 5 must divide embed_dim 128"),
        ({"pull": 3}, "with --set pull: pull: "),
    ],
)
def test_what_is_set_is_checked_as_the_file_is(changes, sentence):
    with pytest.raises(SohesError, match=sentence) as caught:
        load_params(TEMPLATE.params, changes)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_wrong_by_itself_is_told_without_what_is_set(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(TEMPLATE.params.read_text().replace("theta_cover: 0.9", "theta_cover: 9", 1))
    with pytest.raises(SohesError, match=r"params\.yaml: explore\.theta_cover: "):
        load_params(file, {"explore.theta_cover": 0.5})
    assert load_params(TEMPLATE.params, {"explore.theta_cover": 0.5}).explore.theta_cover == 0.5
