"""Every training in two processes over gloo, one of which is killed or stopped: the other, the state, and the rerun."""

import json
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from packing import make_project

from sohes.train.world import PATIENCE

STEPS, KILLED_AT, EVERY = 5, 3, 2
TRAININGS = {  # the command, and what it writes
    "dino": ("backbone", "models/backbone.safetensors"),
    "distill": ("backbone", "models/backbone.safetensors"),
    "instruct": ("instruct", "models/instruct.safetensors"),
    "correct": ("correct", "models/correct.safetensors"),
    "downstream": ("downstream", "metrics/downstream.json"),
}
# Imports once, then forks a process for each rank, as starting them one by one would take minutes.
DRIVER = """
import json, os, signal, socket, sys, time
from datetime import timedelta
from pathlib import Path
import grimp, pandas, torch  # those that the commands import on their way, too
from sohes import cli
from sohes.commands import downstream, stages
from sohes.downstream import run
from sohes.stages import backbone, correct, instruct
from sohes.train import loop, world

torch.set_num_threads(1)
os.environ.update(MASTER_ADDR="127.0.0.1", WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo", CUDA_VISIBLE_DEVICES="")


def become_rank(rank, root, command, fault, patience):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    os.chdir(root)
    log = os.open(root / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    world.PATIENCE = timedelta(seconds=patience)
    at_step, written, save = loop._generator, [], torch.save
    def disturbed(seed, step, world):
        if fault in ("SIGKILL", "SIGSTOP") and step == KILLED_AT:
            os.kill(os.getpid(), getattr(signal, fault))
        return at_step(seed, step, world)
    def torn(value, path):
        save(value, path)
        written.append(path)
        if fault == "torn" and len(written) == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    loop._generator = disturbed
    if fault == "torn":
        torch.save = torn
    sys.argv = ["sohes", command]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(end.code)


def run_both(root, command, faults, patience):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    pids = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            try:
                become_rank(rank, root, command, faults.get(str(rank)), patience)
            finally:
                os._exit(99)
        pids.append(pid)
    codes, times = {}, []
    while len(codes) < 2:
        pid, status = os.wait()
        codes[pids.index(pid)] = os.waitstatus_to_exitcode(status)
        times.append(time.monotonic())
        if "SIGSTOP" in faults.values() and len(codes) == 1:
            os.kill(pids[int(next(iter(faults)))], signal.SIGKILL)
    return [codes[rank] for rank in range(2)], times[1] - times[0]


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(run_both(Path(asked["root"]), asked["command"], asked["faults"], asked["patience"])), flush=True)
"""


class Driver:
    """The process above, and the results of an undisturbed run in `quiet` (in `distilled` of a distillation)."""

    def __init__(self, process: subprocess.Popen, folder: Path, values: dict) -> None:
        self.process, self.folder = process, folder
        quiet, distilled = folder / "quiet", folder / "distilled"
        make_project(quiet)
        (quiet / "params.yaml").write_text(yaml.safe_dump(values))
        self.run(quiet, "dino")
        make_project(distilled)
        for suffix in (".safetensors", ".json"):
            shutil.copy(quiet / f"models/backbone{suffix}", distilled / f"models/teacher{suffix}")
        (distilled / "params.yaml").write_text(
            yaml.safe_dump(distilling(values, distilled / "models/teacher.safetensors"))
        )
        for root, training in (
            (distilled, "distill"),
            *((quiet, name) for name in ("instruct", "correct", "downstream")),
        ):
            codes, _ = self.run(root, training)
            assert codes == [0, 0], (root / "0.log").read_text()

    def undisturbed(self, training: str) -> Path:
        return self.folder / ("distilled" if training == "distill" else "quiet")

    def without(self, training: str, fault: str) -> Path:
        """A copy of the project in which the training has not run."""
        root = self.folder / f"{training}-{fault}"
        shutil.copytree(self.undisturbed(training), root)
        shutil.rmtree(root / ".sohes", ignore_errors=True)
        (root / TRAININGS[training][1]).unlink()
        return root

    def run(
        self, root: Path, training: str, faults: dict | None = None, *, patience: float = 60
    ) -> tuple[list[int], float]:
        """The exit codes of both ranks, and the seconds from the first end to the last."""
        asked = {"root": str(root), "command": TRAININGS[training][0], "faults": faults or {}, "patience": patience}
        self.process.stdin.write(f"{json.dumps(asked)}\n")
        self.process.stdin.flush()
        codes, seconds = json.loads(self.process.stdout.readline())
        return codes, seconds


def distilling(values: dict, teacher: Path) -> dict:
    """The params of a distillation of what DINO has made of them."""
    backbone = values["backbone"]
    shape = {name: backbone[name] for name in backbone["distill"]["teacher"] if name != "pretrained"}
    distill = backbone["distill"] | {"teacher": {**shape, "pretrained": str(teacher)}}
    return {**values, "backbone": backbone | {"pretrained": "distill", "embed_dim": 8, "distill": distill}}


@pytest.fixture(scope="module")
def driver(tmp_path_factory, repository):
    values = yaml.safe_load((repository / "params.yaml").read_text())
    few = {"steps": STEPS, "checkpoint_every": EVERY, "batch_size": 4}
    values["model"] |= {"image_size": 64, "hidden_dim": 16, "num_queries": 21, "num_heads": 2, "feedforward_dim": 32}
    values["model"] |= {"decoder_layers": 1, "adapter": {"interactions": 1, "stem_dim": 8, "num_heads": 2, "points": 2}}
    for phase in ("instruct", "correct"):
        values[phase] |= few
    values["correct"]["optim"]["backbone_lr_scale"] = 0  # frozen
    values["backbone"] |= {"embed_dim": 16, "depth": 1, "num_heads": 2, "image_size": 32}
    values["backbone"]["dino"] |= {**few, "image_size": 32, "warmup_steps": 1, "prototypes": 16}
    values["backbone"]["distill"] |= {**few, "image_size": 32, "warmup_steps": 1}
    values["downstream"] |= {**few, "image_size": 64, "detection_dim": 16}
    values["pull"]["scenes"] = {"size": 64, "train": 8, "eval": 4}
    command = [sys.executable, "-c", f"KILLED_AT = {KILLED_AT}\n{DRIVER}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Driver(process, tmp_path_factory.mktemp("two"), values)


def ending(root: Path, rank: int) -> list[str]:
    """The sentences that a process has ended with."""
    return [line for line in (root / f"{rank}.log").read_text().splitlines() if line.startswith("sohes: ")]


@pytest.mark.parametrize(
    ("training", "victim", "fault"),
    [
        ("dino", 0, "SIGKILL"),
        ("distill", 1, "SIGKILL"),
        ("instruct", 0, "SIGKILL"),
        ("correct", 1, "SIGKILL"),
        ("downstream", 0, "SIGKILL"),
        ("dino", 0, "torn"),  # half of the second checkpoint is written
    ],
)
def test_one_is_killed_and_the_other_says_so_and_the_same_command_comes_to_the_same(driver, training, victim, fault):
    root = driver.without(training, fault)
    codes, seconds = driver.run(root, training, {victim: fault})
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 75
    assert seconds < 30
    (said,) = ending(root, 1 - victim)
    assert f"process {1 - victim} of the 2 that train together lost another" in said
    assert "Traceback" not in (root / f"{1 - victim}.log").read_text()
    saved = [torch.load(path, weights_only=True) for path in root.glob(f".sohes/{TRAININGS[training][0]}/**/state.pt")]
    assert [state["step"] for state in saved] == [EVERY]
    assert driver.run(root, training)[0] == [0, 0]
    assert not list(root.glob(".sohes/**/state.pt"))
    result = TRAININGS[training][1]
    assert (root / result).read_bytes() == (driver.undisturbed(training) / result).read_bytes()


def test_one_that_is_stopped_is_waited_for_as_long_as_the_patience(driver):
    root = driver.without("distill", "stopped")
    codes, _ = driver.run(root, "distill", {0: "SIGSTOP"}, patience=4)
    assert codes[1] == 75
    (said,) = ending(root, 1)
    assert "said nothing for 4 seconds" in said


def test_the_patience_is_minutes():
    assert timedelta(minutes=5) <= PATIENCE <= timedelta(minutes=15)
