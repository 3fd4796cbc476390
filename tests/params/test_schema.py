"""The JSON Schema of files of params: that of the models, true of every profile, found from where each file lies."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from pydantic import ValidationError

from sohes.commands import init
from sohes.params import Params, load_params
from sohes.params.schema import MARK, described, first_line, kind, schema_text
from sohes.project import Project, read_mapping

ROOT = Path(__file__).parents[2]
PROFILES = ["params.yaml", *sorted(f"params/{path.name}" for path in ROOT.glob("params/*.yaml"))]


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(Project(ROOT).schema.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_file_is_what_the_models_give():
    assert json.loads(Project(ROOT).schema.read_text()) == json.loads(schema_text()), (
        "sohes params --schema > params/schema.json"
    )


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits_it_and_names_it_in_its_first_line(validator, name):
    file = ROOT / name
    validator.validate(read_mapping(file))
    first = file.read_text().splitlines()[0]
    assert first.startswith(MARK)
    assert (file.parent / first.removeprefix(MARK)).samefile(Project(ROOT).schema)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("explore", {"theta_smal": 1}),
        ("explore", {"also": [{"features": "tokens", "theta_cover": 0.5}]}),
        ("explore", {"refiner": "sharp"}),
        ("evaluate", {"nms_iou": 1.5}),
        ("evaluate", {"tiles": {"levels": [0.05], "overlap": 0.2, "score_factor": 1}}),
        ("loss", {"oversample_ratio": 0}),
        ("pull", {"annotations_upright": "perhaps"}),
    ],
)
def test_what_the_models_refuse_key_by_key_an_editor_marks(validator, section, change):
    values = copy.deepcopy(read_mapping(ROOT / "params.yaml"))
    values[section] |= change
    assert not validator.is_valid(values)
    with pytest.raises(ValidationError):
        Params.model_validate(values)


def test_the_line_is_relative_to_the_file(tmp_path):
    schema = tmp_path / "params/schema.json"
    assert first_line(tmp_path / "params.yaml", schema) == f"{MARK}params/schema.json\n"
    assert first_line(tmp_path / "params/mine.yaml", schema) == f"{MARK}schema.json\n"
    assert first_line(tmp_path / "a/b/mine.yaml", schema) == f"{MARK}../../params/schema.json\n"


@pytest.mark.parametrize("file", ["params.yaml", "params/mine.yaml", "deep/er/mine.yaml"])
@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_what_init_writes_names_it_once_and_stays_so(tmp_path, monkeypatch, file, profile):
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    monkeypatch.setattr(init, "list_photographs", lambda _: SimpleNamespace(names=["a.jpg"] * 1000, others=[]))
    for _ in range(2):
        init.init(photos, profile=profile, params=Path(file))
        first, *others = Path(file).read_text().splitlines()
        assert (Path(file).parent / first.removeprefix(MARK)).read_text() == schema_text()
        assert not [line for line in others if line.startswith(MARK)]
        assert others[0].startswith("# ")
        load_params(Path(file))


def test_every_key_has_a_kind_and_says_what_it_is():
    said = described()
    assert len(said) > 150
    assert {key for key, node in said.items() if not node["description"].endswith(".")} == set()
    assert kind(said["explore.theta_cover"]) == "number, at least 0, at most 1"
    assert kind(said["pull.folder.images"]) == "path or null"
    assert kind(said["model.cascade.ious"]) == "list, at least 1, each: number, at least 0, at most 1"
    assert kind(said["model.queries"]) == "one of learned, grid"
    assert said["correct.tiles"]["description"] == "The teacher's closer look."
    assert [kind(node) for node in said.values() if "properties" not in node]
