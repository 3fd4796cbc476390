"""What the tests share: quiet surroundings, real photographs where they are, one Prefect server for all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

# Before torch and numba are imported: tests are tiny, and threads of theirs only fight over the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.update(SOHES_TRACKING="off", DO_NOT_TRACK="1", HF_HUB_OFFLINE="1")
for _name in (
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_URL",
    "SOHES_PIPELINE_RUN",
    "SOHES_LAUNCH",
    "SOHES_DEBUG",
    "SOHES_WORKERS",
):
    os.environ.pop(_name, None)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs beside the checkout; tests that need it are skipped where there is none."""
    folder = REPOSITORY.parent / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}")
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One temporary Prefect server for all tests that run flows: starting it takes longer than they do."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC project of its own with this checkout's dvc.yaml, code and tiny params; no commit is made."""
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    # With __pycache__: numba's compiled functions lie there, and compiling them anew takes half a minute.
    for name in ("sohes", "infra"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


@pytest.fixture
def tiny_params() -> dict:
    """The checkout's params.yaml as a dictionary, cut down to seconds: small images, few of them, three steps."""
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["pull"] |= {"scenes": {"size": 64, "train": 8, "eval": 4}, "images_per_shard": 4}
    values["backbone"] |= {"embed_dim": 32, "depth": 2, "num_heads": 2, "image_size": 64}
    values["backbone"]["dino"] |= {"steps": 3, "batch_size": 4, "image_size": 32, "warmup_steps": 1, "prototypes": 16}
    values["explore"] |= {"image_size": 64, "crop_size": 32, "min_crop": 32, "images_per_shard": 4}
    values["model"] |= {"image_size": 64, "hidden_dim": 32, "num_queries": 21, "feedforward_dim": 32, "num_heads": 2}
    values["model"]["adapter"] |= {"interactions": 1, "stem_dim": 8, "num_heads": 2}
    for phase in ("instruct", "correct"):
        values[phase] |= {"steps": 3, "batch_size": 2, "checkpoint_every": 2}
        values[phase]["optim"]["warmup_steps"] = 1
    values["evaluate"]["images_per_shard"] = 4
    values["report"]["pictures"] = 2
    return values


@pytest.fixture
def tiny_model(tiny_params: dict, tmp_path: Path) -> Path:
    """A network of the tiny profile with a card, untrained but able to find masks: `models/correct.safetensors`."""
    import torch

    from sohes.backbone.vit import Backbone
    from sohes.model.network import Segmenter
    from sohes.params import Params
    from sohes.train.checkpoint import save_checkpoint

    params = Params.model_validate(tiny_params)
    shape = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    torch.manual_seed(0)
    network = Segmenter(Backbone(params.backbone.architecture, shape), params.model)
    path = tmp_path / "models/correct.safetensors"
    save_checkpoint(path, network, {"phase": "correct"})
    return path
