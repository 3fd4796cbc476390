import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sohes import cli
from sohes.commands import doctor
from sohes.commands.doctor import State
from sohes.model.footprint import Footprint, training_footprint
from sohes.params import Params, load_params
from sohes.work.files import write_json


@pytest.fixture
def params(repository) -> Params:
    return load_params(repository / "params.yaml")


@pytest.fixture(autouse=True)
def quiet_surroundings(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that answers everything but /api/health, of which it says that it is ill."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if self.path == "/api/health" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def looked_at(params: Params, root: Path, **more) -> dict[str, doctor.Finding]:
    return {found.what: found for found in doctor.run(params, root, **more)}


def test_the_demo_needs_nothing_that_is_not_here(params, tmp_path):
    found = looked_at(params, tmp_path)
    assert not [f for f in found.values() if f.state in (State.broken, State.missing)]
    assert {"Python", "GPU", "disk", "caches", "instruct", "correct", "weights", "hub", "MLflow", "Prefect", "DVC",
            "Slurm", "S3"} == set(found)  # fmt: skip
    assert "million weights" in found["instruct"].words
    assert ": " in found["DVC"].words


def test_servers_that_are_named_must_answer(params, tmp_path, server, monkeypatch):
    monkeypatch.delenv("SOHES_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    found = looked_at(params, tmp_path)
    assert (found["MLflow"].state, found["MLflow"].words) == (State.ok, f"{server} answers")
    assert found["Prefect"].state is State.broken
    assert "does not answer (status 503): start the server" in found["Prefect"].words
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # where nobody listens
    found = looked_at(params, tmp_path)
    assert found["MLflow"].state is State.broken
    assert "fix MLFLOW_TRACKING_URI" in found["MLflow"].words


def test_a_database_must_take_connections(tmp_path, server, monkeypatch):
    monkeypatch.delenv("SOHES_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@127.0.0.1:9/runs")
    found = doctor._mlflow(tmp_path)
    assert found.state is State.broken
    assert found.words.startswith("postgresql+psycopg2://127.0.0.1:9/runs does not answer (")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("http", "postgresql"))
    assert doctor._mlflow(tmp_path).state is State.ok


def test_a_database_that_cannot_be_written_to_is_broken(tmp_path, monkeypatch):
    monkeypatch.delenv("SOHES_TRACKING")
    assert doctor._mlflow(tmp_path).state is State.ok
    for place in ("/proc/mlflow.db", "/proc/version"):  # in a folder, and a file, that nobody can write to
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}")
        found = doctor._mlflow(tmp_path)
        assert (found.state, "cannot be written to: fix its permissions" in found.words) == (State.broken, True)


def test_credentials_are_missing_only_where_something_lies_on_s3(params, tmp_path):
    from_s3 = params.model_copy(update={"pull": params.pull.model_copy(update={"source": "s3"})})
    assert doctor._s3(params, tmp_path).state is State.optional
    assert doctor._s3(from_s3, tmp_path).state is State.missing
    (tmp_path / ".dvc").mkdir()
    for address, state in (("/mnt/store", State.optional), ("s3://bucket/results", State.missing)):
        (tmp_path / ".dvc/config").write_text(f"[core]\nremote = store\n['remote \"store\"']\nurl = {address}\n")
        assert doctor._s3(params, tmp_path).state is state


def test_a_gpu_is_missing_only_to_a_profile_that_counts_on_one(params, repository, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert doctor._torch(params).state is State.optional
    assert doctor._torch(load_params(repository / "params/one-gpu.yaml")).state is State.missing


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({"a": State.ok, "b": State.optional}, "can run p.yaml."),
        ({"a": State.missing, "b": State.optional, "c": State.missing}, "can run p.yaml, but see a, c."),
        ({"a": State.missing, "b": State.broken}, "cannot run p.yaml: fix b."),
    ],
)
def test_the_verdict_names_what_is_in_the_way(states, words):
    findings = [doctor.Finding(what, state, "") for what, state in states.items()]
    assert doctor.verdict(findings, Path("p.yaml")) == f"This machine {words}"


def test_where_caches_lie_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "kept_in", lambda: tmp_path / "numba")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = doctor._caches()
    assert found.state is State.ok
    assert found.words == f"compiled functions in {tmp_path}/numba, libraries' files in {tmp_path}/cache"
    monkeypatch.setattr(doctor, "temporary_home", lambda: tmp_path)
    assert "set HOME or XDG_CACHE_HOME" in doctor._caches().words
    monkeypatch.setattr(doctor, "kept_in", lambda: None)
    found = doctor._caches()
    assert (found.state, "set NUMBA_CACHE_DIR" in found.words) == (State.missing, True)


@pytest.mark.parametrize(
    ("pretrained", "weights", "hub"),
    [
        ("train", State.ok, State.optional),
        ("vit_small_patch8_224.dino", State.missing, State.broken),  # nothing fetched yet, and no hub to fetch from
        ("gone/away.safetensors", State.broken, State.optional),
        ("distill", State.missing, State.broken),  # its teacher's
    ],
)
def test_the_hub_matters_if_its_weights_are_wanted(params, tmp_path, monkeypatch, pretrained, weights, hub):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    wanted = params.model_copy(update={"backbone": params.backbone.model_copy(update={"pretrained": pretrained})})
    found = looked_at(wanted, tmp_path)
    assert (found["weights"].state, found["hub"].state) == (weights, hub)
    made = tmp_path / "models/backbone.safetensors"
    write_json(made.with_suffix(".json"), {"seed": wanted.seed, "params": wanted.backbone.model_dump(mode="json")})
    made.touch()
    found = looked_at(wanted, tmp_path)
    assert (found["weights"].state, found["hub"].state) == (State.ok, State.optional)
    assert found["weights"].words == str(made)


@pytest.mark.parametrize("card", ["the demo's", "{", "[]", None])
def test_another_profiles_backbone_is_no_weights_for_this_one(params, repository, tmp_path, monkeypatch, card):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    made = tmp_path / "models/backbone.safetensors"
    write_json(made.with_suffix(".json"), {"seed": params.seed, "params": params.backbone.model_dump(mode="json")})
    made.touch()
    assert looked_at(params, tmp_path)["weights"].words == str(made)
    if card is None:
        made.with_suffix(".json").unlink()
    elif card != "the demo's":
        made.with_suffix(".json").write_text(card)
    found = looked_at(load_params(repository / "params/paper.yaml"), tmp_path)
    assert (found["weights"].state, found["hub"].state) == (State.missing, State.broken)
    assert "vit_base_patch8_224.dino is not here yet" in found["weights"].words
    assert f"{made} is there, but its card does not name these params" in found["weights"].words


def test_a_training_that_does_not_fit_is_named_with_the_remedies(params):
    need = Footprint(parameters=10_000_000, state=3 * 10**9, activations=9 * 10**9, images=8)

    def judge(room, need=need, **more):
        given = {"device": "cuda", "room": room, "processes": 1, "recomputed": False} | more
        return doctor.judge("instruct", params.instruct, need, **given)

    assert judge(14e9).state is State.ok
    found = judge(12e9)
    assert found.state is State.broken
    for words in ("about 13.0 GB of the GPU's 12.0 GB", "8 images at once 9.0 GB", "raise instruct.accumulate above 1",
                  "set model.recompute_blocks", "more than 1 processes"):  # fmt: skip
        assert words in found.words
    one = judge(12e9, Footprint(1, 0, 13 * 10**9, images=1), recomputed=True)
    assert "accumulate" not in one.words
    assert "recompute" not in one.words


def test_processes_that_cut_an_image_are_a_finding(params, tmp_path):
    found = looked_at(params, tmp_path, processes=7)
    assert found["instruct"].state is State.broken
    assert "change instruct.batch_size" in found["instruct"].words


def test_a_training_is_judged_by_the_vit_that_it_begins_with(params, repository, tmp_path):
    def beginning_with(start):
        section = params.instruct.model_copy(update={"start": start, "backbone_of_start": True})
        return params.model_copy(update={"instruct": section, "model": released.model})

    released = load_params(repository / "params/released.yaml")
    assert training_footprint(beginning_with("small"), params.instruct).parameters == 8_655_704  # as its card says
    later = params.model_copy(update={"instruct": params.instruct.model_copy(update={"start": "gone.safetensors"})})
    found = looked_at(later, tmp_path)  # with the ViT of the pipeline
    assert (found["start"].state, found["instruct"].state) == (State.broken, State.ok)
    assert found["start"].words == "no model at gone.safetensors: set instruct.start to another, or to null"
    assert "start" not in looked_at(beginning_with("small"), tmp_path)
    found = looked_at(beginning_with("gone.safetensors"), tmp_path)
    for phase in ("instruct", "correct"):
        assert found[phase].state is State.broken
        assert "no model at gone.safetensors, whose ViT phase 2 trains: set instruct.start" in found[phase].words


def test_a_head_whose_package_is_not_here_is_broken(params, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    model = params.model.model_copy(update={"head": "detectron2-cascade"})
    found = looked_at(params.model_copy(update={"model": model}), tmp_path)
    assert found["extras"].state is State.broken
    assert "install it from its source" in found["extras"].words
    assert found["instruct"].state is State.ok  # what it would need is counted all the same


def test_a_refiner_whose_weights_are_not_here_is_broken(params, tmp_path, monkeypatch):
    monkeypatch.setenv("SOHES_CRM", "~/nowhere")
    assert "refiner" not in looked_at(params, tmp_path)
    explore = params.explore.model_copy(update={"refiner": "crm"})
    found = looked_at(params.model_copy(update={"explore": explore}), tmp_path)["refiner"]
    assert found.state is State.broken
    assert "CRM's weights are not at ~/nowhere: fetch" in found.words


def test_dvc_needs_a_git_repository_unless_it_is_told_otherwise(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    found = doctor._dvc(tmp_path)
    assert (found.state, "`git init`, or `dvc config core.no_scm true`" in found.words) == (State.broken, True)
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert doctor._dvc(tmp_path).state is State.optional  # a remote


def test_a_dvc_remote_is_named(params, tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".git").mkdir()
    config = tmp_path / ".dvc/config"
    config.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = /mnt/store\n")
    found = looked_at(params, tmp_path)["DVC"]
    assert (found.state, found.words) == (State.ok, "remote store: /mnt/store")
    config.write_text("[core]\n    analytics = false\n")
    assert "dvc remote add" in looked_at(params, tmp_path)["DVC"].words


def test_the_command_ends_with_1_if_something_needed_is_broken(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    for profile, code in (("params.yaml", 0), ("params/paper.yaml", 1)):  # of which the hub's weights are not here
        done = CliRunner().invoke(cli.app, ["doctor", "--params", str(repository / profile)])
        assert done.exit_code == code
        *listed, verdict = done.stdout.splitlines()
        assert len(listed) == 13
        verb = "cannot" if code else "can"
        assert verdict.startswith(f"This machine {verb} run {repository / profile}")
        broken = [line.split()[1] for line in listed if line.startswith("broken")]
        assert verdict.endswith(f": fix {', '.join(broken)}." if code else ".")
    # Outside a project, the profile that comes with the code.
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == 0
