import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from processes import free_port

import sohes
from sohes import tracking
from sohes.errors import SohesError
from sohes.params import Params
from sohes.predictor import load_predictor
from sohes.tracking import registry
from sohes.tracking.registry import NAME, beats, register, registered_model, save_pyfunc

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
EVAL, OTHER_EVAL = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def another(model, tmp_path, name):
    """The same network under another digest: safetensors keep what stands in their header."""
    from safetensors.torch import load_file, save_file

    copy = tmp_path / name / model.name
    copy.parent.mkdir()
    save_file(load_file(model), copy, metadata={"name": name})
    card = json.loads(model.with_suffix(".json").read_text())
    from sohes.work.files import digest_file

    copy.with_suffix(".json").write_text(json.dumps(card | {"digest": digest_file(copy)}))
    return copy


@pytest.mark.parametrize(
    ("ar", "images", "better"),
    [(30.1, EVAL, True), (30.0, EVAL, False), (90.0, OTHER_EVAL, False), (None, EVAL, False)],
)
def test_only_a_higher_recall_on_the_same_images_is_better(ar, images, better):
    champion = {"sohes.AR": "30.0", "sohes.eval": EVAL}
    challenger = {"sohes.eval": images} | ({} if ar is None else {"sohes.AR": str(ar)})
    assert beats(challenger, champion) is better
    assert beats(challenger, None)


@pytest.mark.parametrize(("section", "better"), [("one", True), ("other", False), (None, True)])
def test_only_a_recall_of_the_same_evaluate_section_is_better(section, better):
    champion = {"sohes.AR": "30.0", "sohes.eval": EVAL} | ({} if section is None else {"sohes.evaluate": section})
    assert beats({"sohes.AR": "31.0", "sohes.eval": EVAL, "sohes.evaluate": "one"}, champion) is better


def test_a_version_that_missed_its_alias_gets_it_the_next_time(
    tiny_model, tiny_params, database, tmp_path, monkeypatch
):
    client = MlflowClient(f"sqlite:///{shutil.copy(database, tmp_path)}")
    monkeypatch.chdir(tmp_path)
    run_id = client.create_run(client.create_experiment("sohes", str(tmp_path / "artifacts"))).info.run_id
    params = Params.model_validate(tiny_params)
    fewer = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"max_masks": 3})})

    def made(of: Params) -> str:
        return register(client, run_id, tiny_model, of, metrics={"AR": 20.0}, data={"eval": EVAL}).version

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            made(params)
    first = made(params)
    assert client.get_model_version_by_alias(NAME, "champion").version == first
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
    assert made(fewer) != first == client.get_model_version_by_alias(NAME, "champion").version


def test_the_champion_changes_for_a_better_model_only_and_can_be_loaded_by_name(
    tiny_model, tiny_params, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.chdir(tmp_path)
    params = Params.model_validate(tiny_params)
    models = [tiny_model, *(another(tiny_model, tmp_path, name) for name in ("worse", "better"))]
    champions = []
    with tracking.stage_run("evaluate", params, tmp_path) as recorder:
        client, run_id = tracking.tracking_client(tmp_path), recorder.run_id
        for model, ar in zip(models, (20.0, 19.0, 21.0), strict=True):
            data = {"eval": EVAL, "labels": "sha256:c"}
            made = register(client, run_id, model, params, metrics={"AR": ar, "AP": 1.0}, data=data)
            champions.append(str(client.get_model_version_by_alias(NAME, "champion").version))
        again = register(client, run_id, models[2], params, metrics={"AR": 21.0}, data=data)
    assert champions == ["1", "1", "3"]
    assert str(again.version) == str(made.version) == "3"

    # The metric leads to the model, and the model to its data.
    logged = client.get_logged_model(made.tags["sohes.logged_model"])
    assert {m.key: m.value for m in logged.metrics} == {"AR": 21.0, "AP": 1.0}
    assert {m.dataset_digest for m in logged.metrics} == {"a" * 36}
    assert logged.tags["sohes.labels"] == "sha256:c"
    assert made.tags["sohes.AR"] == "21.0"

    fetched = registered_model("mlflow:/sohes@champion", tmp_path)
    assert fetched.read_bytes() == models[2].read_bytes()
    assert fetched.is_relative_to(tmp_path / ".sohes/registry")
    assert registered_model("mlflow:/sohes/1", tmp_path).read_bytes() == tiny_model.read_bytes()
    by_name, by_file = sohes.load("mlflow:/sohes@champion"), sohes.load(tiny_model)
    assert by_name.segment(IMAGE).found.rles == by_file.segment(IMAGE).found.rles
    assert not (tmp_path / "mlruns").exists()

    with pytest.raises(SohesError, match="the registry has no sohes@king"):
        registered_model("mlflow:/sohes@king", tmp_path)
    with pytest.raises(SohesError, match="the registry has no absent/3"):
        registered_model("mlflow:/absent/3", tmp_path)
    with pytest.raises(SohesError, match="write mlflow:/NAME@ALIAS"):
        registered_model("mlflow:/sohes", tmp_path)


def test_a_foreign_model_is_one_sentence(database, tmp_path, monkeypatch):
    client = MlflowClient(f"sqlite:///{shutil.copy(database, tmp_path)}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/MLmodel").touch()
    client.create_registered_model("cats")
    client.create_model_version("cats", str(tmp_path / "cats"))
    with pytest.raises(SohesError, match="mlflow:/cats/1 is no model of SOHES"):
        registered_model("mlflow:/cats/1", tmp_path)


def test_two_processes_may_fetch_one_model_at_a_time(tmp_path, monkeypatch):
    def fetched(*, dst_path: str, **_: object) -> str:
        for folder in (Path(dst_path) / "model", tmp_path / "sohes-1"):  # the other process is quicker
            (folder / "artifacts").mkdir(parents=True)
        return str(Path(dst_path) / "model")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fetched)
    registry._fetch("models:/sohes/1", tmp_path / "sohes-1", "")
    assert [path.name for path in tmp_path.iterdir()] == ["sohes-1"]


@pytest.mark.parametrize("address", [None, "sqlite:///{}/other.db?timeout=3"])
def test_looking_into_a_registry_makes_none(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    if address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tmp_path))
    with pytest.raises(SohesError, match=r"no MLflow database at sqlite:///.*\.db.*: run in the folder of a project"):
        sohes.load("mlflow:/sohes@champion")
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_fails_costs_the_record_and_not_the_work(tiny_params, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    with tracking.stage_run("evaluate", Params.model_validate(tiny_params), tmp_path) as recorder:
        recorder.model(tmp_path / "absent.safetensors", Params.model_validate(tiny_params), metrics={}, data={})
    assert "MLflow takes no records" in capsys.readouterr().err


ALONE = """
import importlib.util, json, re, sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

folder, image = sys.argv[1:]
canonical = lambda name: re.sub("[-_.]+", "-", name).lower()
lines = Path(folder, "requirements.txt").read_text().split()
assert all("==" in line for line in lines), lines
brought, waiting = set(), [line.partition("==")[0] for line in lines]
while waiting:
    name = canonical(waiting.pop())
    if name not in brought:
        brought.add(name)
        try:
            waiting += [re.match("[\\w.-]+", line)[0] for line in requires(name) or [] if "extra ==" not in line]
        except ModuleNotFoundError:  # for another system or Python
            pass
refused = {
    name for name, owners in packages_distributions().items() if not {canonical(owner) for owner in owners} & brought
} - sys.stdlib_module_names - {"sohes"}
assert {"pytest", "dvc", "prefect"} <= refused

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path[:] = [place for place in sys.path if not (Path(place) / "sohes").is_dir()]
assert importlib.util.find_spec("sohes") is None, "this environment knows the package"

import mlflow.pyfunc
import pandas as pd

model = mlflow.pyfunc.load_model(folder)
answer = model.predict(pd.DataFrame({"image": [Path(image).read_bytes()]})).iloc[0]
import sohes

assert Path(sohes.__file__).is_relative_to(folder), sohes.__file__
print(json.dumps({key: list(answer[key]) for key in ("masks", "scores", "parents")}))
"""


def test_the_artifact_stands_alone(tiny_model, tiny_params, tmp_path):
    """Loaded where nobody has heard of this package, with what `requirements.txt` names and no more."""
    params = Params.model_validate(tiny_params)
    save_pyfunc(tmp_path / "pyfunc", tiny_model, params)
    code = tmp_path / "pyfunc/code/sohes"
    assert (code / "predictor.py").exists()
    assert not [path for path in code.rglob("*") if path.suffix in (".safetensors", ".pyc", ".nbc")]
    (tmp_path / "image.png").write_bytes(png(IMAGE))
    (tmp_path / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(tmp_path / "pyfunc"), str(tmp_path / "image.png")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], cwd=tmp_path / "empty", capture_output=True, text=True, check=False,
        env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true", "NUMBA_DISABLE_JIT": "1"},  # compiling takes a minute
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    expected = load_predictor(tiny_model, params.evaluate).segment(IMAGE)
    assert len(expected) > 0
    assert answer["masks"] == [rle.decode() for rle in expected.found.rles]
    assert answer["parents"] == expected.parents.tolist()
    assert answer["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-6)


def test_a_signature_and_an_example_are_kept(tiny_model, tiny_params, tmp_path):
    from mlflow.models import Model

    save_pyfunc(tmp_path / "pyfunc", tiny_model, Params.model_validate(tiny_params))
    saved = Model.load(tmp_path / "pyfunc")
    assert saved.signature.inputs.input_names() == ["image"]
    assert saved.signature.outputs.input_names() == ["height", "width", "masks", "scores", "parents"]
    assert len(saved.load_input_example(str(tmp_path / "pyfunc"))) == 1


@pytest.mark.slow
def test_mlflow_serves_it_on_loopback(tiny_model, tiny_params, tmp_path):
    save_pyfunc(tmp_path / "pyfunc", tiny_model, Params.model_validate(tiny_params))
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(tmp_path / "pyfunc")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # What it starts in turn begins with `python`, and has to find the same package as this test.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120
    packages = os.path.dirname(os.path.dirname(sohes.__file__))  # noqa: PTH120
    environment = {**os.environ, "PATH": path, "PYTHONPATH": packages, "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        rows = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(png(IMAGE)).decode()]]}}
        (answer,) = ask(f"http://127.0.0.1:{port}/invocations", rows, server, tmp_path / "serve.log")["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()
    expected = sohes.load(tiny_model).segment(IMAGE)
    assert (answer["height"], answer["width"]) == IMAGE.shape[:2]
    assert answer["masks"] == [rle.decode() for rle in expected.found.rles]
    assert answer["parents"] == expected.parents.tolist()
    assert answer["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-6)


def ask(address: str, body: dict, server: subprocess.Popen, log) -> dict:
    """The server's answer, as soon as it listens."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(1500):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{error.read().decode()}\n{log.read_text()}") from None
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
