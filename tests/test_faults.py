"""What goes wrong on real machines, each carried through to labels that are byte for byte those of a quiet day.

More of them stand where their subject does: a killed stage in stages/test_explore.py, a cancelled and a requeued job in
launch/test_stages_on_slurm.py, a killed Prefect worker in flows/test_deployments.py.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sohes.data.sources import s3 as s3_source
from sohes.data.sources.transfer import Patience
from sohes.errors import TEMPORARY
from sohes.params import Params
from sohes.stages import explore, pull


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "1")


def published(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data/pseudo_labels").iterdir())}


def photograph(seed: int) -> bytes:
    """A few coloured blocks and some grain, as PNG."""
    random = np.random.default_rng(seed)
    blocks = np.kron(random.integers(0, 256, (3, 3, 3)), np.ones((22, 22, 1)))[:64, :64]
    data = io.BytesIO()
    Image.fromarray(np.clip(blocks + random.normal(0, 8, blocks.shape), 0, 255).astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_labels_from_an_s3_that_fails_cuts_and_stalls(s3, tiny_params, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_source, "PART_BYTES", 8000)
    hasty = Patience(attempts=4, first_wait=0.01, longest_wait=0.02, timeout=1)
    monkeypatch.setattr(s3_source.S3Source, "patience", hasty)
    monkeypatch.setattr(s3_source.S3Source.__init__, "__defaults__", (hasty,))
    for number in range(6):
        s3.client.put_object(Bucket="photos", Key=f"set/{number}.png", Body=photograph(number))
    pack = io.BytesIO()
    with tarfile.open(fileobj=pack, mode="w") as tar:
        for number in range(6, 10):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(photograph(number))
            tar.addfile(member, io.BytesIO(photograph(number)))
    s3.client.put_object(Bucket="photos", Key="set/pack.tar", Body=pack.getvalue())
    tiny_params["pull"] |= {"source": "s3"}
    tiny_params["pull"]["s3"] |= {"uri": "s3://photos/set", "eval_fraction": 0}
    params = Params.model_validate(tiny_params)
    for name, faults in {
        "quiet": [],
        "disturbed": ["500", "cut", "503", "stall", "", "503", "cut", "flip", "500", "stall"],
    }.items():
        s3.faults.next = list(faults)
        pull.run(params, tmp_path / name)
        assert s3.faults.next == []  # all of them were met
        explore.run(params, tmp_path / name)
    labels = published(tmp_path / "quiet")
    assert sum(len(data) for data in labels.values()) > 1000
    assert published(tmp_path / "disturbed") == labels


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("no disk to fill: mounting one needs root and Linux")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk to fill: mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_labels_on_a_disk_that_was_full_in_the_middle_of_a_shard(tiny_params, tmp_path, small_disk, repository):
    params = Params.model_validate(tiny_params)
    pull.run(params, tmp_path / "quiet")
    explore.run(params, tmp_path / "quiet")
    shutil.copytree(tmp_path / "quiet/data/images", small_disk / "data/images")
    (small_disk / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    explore.run(params, small_disk, shards=range(1))
    finished = {path: path.stat().st_mtime_ns for path in small_disk.glob(".sohes/explore/*/shard-00000.parquet")}
    assert len(finished) == 1
    free = shutil.disk_usage(small_disk).free
    smallest = (tmp_path / "quiet/data/pseudo_labels/shard-00001.parquet").stat().st_size
    (small_disk / "ballast").write_bytes(bytes(free - smallest // 2 // 4096 * 4096))

    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "sohes", "explore"]
    full = subprocess.run(command, cwd=small_disk, env=environment, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("sohes: the disk is full")
    assert not (small_disk / "data/pseudo_labels").exists()
    assert not list(small_disk.glob(".sohes/explore/*/*00001*"))  # no half of it
    (small_disk / "ballast").unlink()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    explore.run(params, small_disk)
    assert published(small_disk) == published(tmp_path / "quiet")


def test_labels_of_the_same_command_started_twice_at_once(tiny_params, tmp_path, repository):
    """As when a job that was requeued has not ended yet on a node that was thought dead."""
    tiny_params["explore"]["images_per_shard"] = 1
    params = Params.model_validate(tiny_params)
    pull.run(params, tmp_path / "quiet")
    explore.run(params, tmp_path / "quiet")
    twice = tmp_path / "twice"
    shutil.copytree(tmp_path / "quiet/data/images", twice / "data/images")
    (twice / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "sohes", "explore"]
    both = [subprocess.Popen(command, cwd=twice, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    codes = {process.returncode for process in both}
    assert 0 in codes, told
    assert codes <= {0, TEMPORARY}, told
    assert published(twice) == published(tmp_path / "quiet")
