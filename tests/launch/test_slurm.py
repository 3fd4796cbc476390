"""The Slurm launcher on a real Slurm."""

import json
import os
import pickle
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import submitit
from submitit.slurm.slurm import SlurmInfoWatcher

from sohes.errors import SohesError, TemporaryError
from sohes.launch import SlurmProfile, Task, load_profile, run_tasks
from sohes.launch.ledger import Ledger
from sohes.launch.profile import Resources
from sohes.launch.slurm import Command, sbatch_parameters

SMALL = {"nodes": 1, "gpus": 0, "cpus": 1, "memory_gib": 1, "minutes": 5}


@pytest.fixture
def profile(repository: Path) -> SlurmProfile:
    """The committed profile, cut down to a cluster of two small nodes."""
    values = load_profile(repository / "infra/launch", "slurm").model_dump()
    values |= {
        "poll_seconds": 0.5,
        "cpu": SMALL,
        "shard": SMALL | {"gpus": 1},
        "whole": SMALL,
        "train": SMALL | {"nodes": 2},
    }
    return SlurmProfile.model_validate(values | {"environment": {"PYTHONPATH": str(repository)}})


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def launch(tasks: list[Task], root: Path, profile: SlurmProfile, **options):
    return run_tasks(tasks, kind=options.pop("kind", "shard"), group="test", root=root, profile=profile, **options)


def test_the_profile_in_slurms_words(profile):
    values = profile.model_dump() | {
        "partition": "gpu",
        "account": "me",
        "setup": ("module load cuda",),
        "requeue": True,
    }
    resources = profile.shard.model_copy(update={"gpus": 4, "memory_gib": 48})
    got = sbatch_parameters(
        SlurmProfile.model_validate(values | {"options": {"qos": "high", "exclusive": False}}), resources, "name"
    )
    assert (got["partition"], got["account"], got["time"], got["mem"]) == ("gpu", "me", 5, "48GB")
    assert (got["gpus_per_node"], got["setup"]) == (4, ["module load cuda"])
    assert got["srun_args"] == ["--cpus-per-task=1"]
    assert got["additional_parameters"] == {"requeue": True, "qos": "high"}


def test_without_slurm_it_is_one_sentence(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SohesError, match="run on a login node of the cluster"):
        launch([Task("a", python("pass"))], tmp_path, profile)


@pytest.mark.parametrize("first_word", ["python", "/usr/bin/python", sys.executable])
@pytest.mark.parametrize("train", [None, Resources(**{**SMALL, "gpus": 2})])
def test_a_command_runs_under_the_python_that_the_profile_has_started_the_job_with(tmp_path, first_word, train):
    # As in a container: another interpreter at another path, where the caller's is not.
    venv.create(tmp_path / "there", symlinks=True, with_pip=False)
    there = str(tmp_path / "there/bin/python")
    command = Command((first_word, "-m", "sohes", "explore"), tmp_path, {}, train)
    script = "import pickle, sys; print(*pickle.loads(bytes.fromhex(sys.argv[1]))._here(), sep='\\n')"
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_JOB_ID": "7",
    }
    done = subprocess.run(
        [there, "-c", script, pickle.dumps(command).hex()], env=environment, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[0] == there
    assert words[-3:] == ["-m", "sohes", "explore"]
    assert ("torch.distributed.run" in words) == (train is not None)


def test_what_is_not_pythons_stays_as_it_is(tmp_path):
    assert Command(("sh", "-c", "python x"), tmp_path, {}, None)._here() == ["sh", "-c", "python x"]


@pytest.mark.parametrize(("jobs", "arrays"), [(925, 1), (1001, 2)])
def test_925_jobs_of_twelve_shards_are_one_array_and_each_look_at_them_is_one_call(
    tmp_path, profile, monkeypatch, jobs, arrays
):
    """On programs that only note that they were called; the nodes work while the launcher sleeps."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, says in {"srun": "", "sbatch": "echo Submitted batch job $(wc -l < $0.calls)", "sacct": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\necho "$@" >> $0.calls\n{says}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    finished, sleeps = set(), []

    def work(_: float) -> None:
        sleeps.append(1)
        waiting = sorted(set(tmp_path.glob(".sohes/slurm/*/*_submitted.pkl")) - finished)
        for path in waiting[:256]:
            path.with_name(path.name.replace("submitted", "0_result")).write_bytes(pickle.dumps(("success", 0)))
        finished.update(waiting[:256])

    monkeypatch.setattr("sohes.launch.slurm.time.sleep", work)
    monkeypatch.setattr(submitit.SlurmJob, "watcher", SlurmInfoWatcher(delay_s=600))
    tasks = [Task(f"{k:05d}", ("true", "--shard", f"{12 * k}-{12 * k + 11}")) for k in range(jobs)]
    outcomes = launch(tasks, tmp_path, profile)
    assert [outcome.exit_code for outcome in outcomes] == [0] * jobs
    calls = {name: len((programs / f"{name}.calls").read_text().splitlines()) for name in ("sbatch", "sacct")}
    assert calls == {"sbatch": arrays, "sacct": len(sleeps)}
    assert len(sleeps) <= -(-jobs // 256) + arrays
    scripts = [path.read_text() for path in sorted(tmp_path.glob(".sohes/slurm/*/*.sh"))]
    assert "#SBATCH --array=0-924%64" in scripts[0] if arrays == 1 else any("0-999%64" in script for script in scripts)


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **says: str) -> Path:
    """Slurm's, which note that they were called and say something."""
    folder.mkdir()
    for name in ("srun", "sbatch", "sacct", "scancel"):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> $0.calls\n{says.get(name, "")}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(submitit.SlurmJob, "watcher", SlurmInfoWatcher(delay_s=600))
    return folder


def nodes_end_with(code: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of one task end while the launcher sleeps."""

    def work(_: float) -> None:
        for path in root.glob(".sohes/slurm/*/*_submitted.pkl"):
            path.with_name(path.name.replace("submitted", "0_result")).write_bytes(pickle.dumps(("success", code)))

    monkeypatch.setattr("sohes.launch.slurm.time.sleep", work)


@pytest.mark.parametrize(("second", "jobs"), [("a", 1), ("b", 2)])
def test_a_job_that_ended_before_an_edit_is_no_answer_to_it(tmp_path, profile, monkeypatch, second, jobs):
    slurm = programs(tmp_path / "bin", monkeypatch, sbatch="echo Submitted batch job $(wc -l < $0.calls)")
    nodes_end_with(0, tmp_path, monkeypatch)
    tasks, recorded = [Task("a", ("true",))], []

    def refuse() -> None:
        raise SohesError("dvc commit failed")

    with pytest.raises(SohesError, match="dvc commit failed"):
        launch(tasks, tmp_path, profile, inputs="a", record=refuse)
    launch(tasks, tmp_path, profile, inputs=second, record=lambda: recorded.append(1))
    assert len((slurm / "sbatch.calls").read_text().splitlines()) == jobs
    assert (recorded, list((tmp_path / ".sohes/launch").iterdir())) == ([1], [])


@pytest.mark.parametrize(
    "words", ["Socket timed out on send/recv operation", "Unable to contact slurm controller (connect failure)"]
)
def test_what_slurm_may_have_queued_unseen_is_cancelled_by_the_next_call(tmp_path, profile, monkeypatch, words):
    slurm = programs(tmp_path / "bin", monkeypatch, sbatch=f"echo 'sbatch: error: {words}' >&2; exit 1")
    tasks = [Task("a", ("true",))]
    with pytest.raises(TemporaryError, match="Slurm does not answer: sbatch: error: "):
        launch(tasks, tmp_path, profile)
    (unseen,) = Ledger(tmp_path, "slurm", "test").submissions
    (slurm / "scancel").write_text(f"#!/bin/sh\necho 'scancel: error: {words}' >&2; exit 1\n")
    with pytest.raises(TemporaryError, match="Slurm does not answer: scancel: error: "):
        launch(tasks, tmp_path, profile)
    (slurm / "scancel").write_text('#!/bin/sh\necho "$@" >> $0.calls\n')
    (slurm / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    nodes_end_with(0, tmp_path, monkeypatch)
    launch(tasks, tmp_path, profile)
    assert (slurm / "scancel.calls").read_text() == f"--name {unseen.name}\n"


def test_a_job_that_failed_is_cancelled(tmp_path, profile, monkeypatch):
    slurm = programs(tmp_path / "bin", monkeypatch, sbatch="echo Submitted batch job 7")
    nodes_end_with(1, tmp_path, monkeypatch)
    (outcome,) = launch([Task("a", ("true",))], tmp_path, profile)
    assert (outcome.exit_code, (slurm / "scancel.calls").read_text()) == (1, "7\n")


@pytest.mark.parametrize(("code", "waits"), [(1, True), (75, True), (0, False)])
def test_what_slurm_ends_does_not_report_itself_as_failed(tmp_path, code, waits):
    """As torchrun, which ends with 1 after SIGTERM, while Slurm queues the job again."""
    stage = f"import os, signal, sys; os.kill(os.getppid(), signal.SIGTERM); sys.exit({code})"
    job = (
        "import sys; from pathlib import Path; from sohes.launch import slurm\n"
        "slurm.time.sleep = lambda seconds: print('waits', seconds)\n"
        "print(slurm.Command(('python', '-c', sys.argv[1]), Path(), {}, None)())"
    )
    done = subprocess.run(python(job, stage), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*(["waits 300"] if waits else []), str(code)]


@pytest.mark.parametrize(("in_profile", "expected"), [({}, None), ({"SOHES_WORKERS": "3"}, "3")])
def test_a_job_has_as_many_processes_as_cpus_whatever_its_flow_has(tmp_path, in_profile, expected):
    stage = "import os; print(os.environ.get('SOHES_WORKERS'))"
    job = (
        "import sys; from pathlib import Path; from sohes.launch.slurm import Command\n"
        f"Command(('python', '-c', sys.argv[1]), Path(), {in_profile}, None)()"
    )
    environment = {**os.environ, "SOHES_WORKERS": "2"}
    done = subprocess.run(python(job, stage), env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestOnACluster:
    def test_an_array_runs_every_task_once_with_its_gpu_and_shows_what_failed(self, tmp_path, profile):
        code = (
            "import os, sys; n = sys.argv[1]; open(f'ran-{n}', 'a').write('x');"
            "print('gpu', os.environ.get('SLURM_JOB_GPUS'), 'at', os.getcwd()); sys.exit(3 * (n == '2'))"
        )
        seen = []
        tasks = [Task(f"t{n}", python(code, str(n))) for n in range(4)]
        outcomes = launch(tasks, tmp_path, profile, on_progress=lambda *counts: seen.append(counts))
        assert [outcome.exit_code for outcome in outcomes] == [0, 0, 3, 0]
        assert [(tmp_path / f"ran-{n}").read_text() for n in range(4)] == ["x"] * 4
        assert f"gpu 0 at {tmp_path}" in outcomes[2].last_lines
        assert outcomes[2].log.exists()
        assert seen[-1] == (4, 4)
        assert not list((tmp_path / ".sohes/launch").iterdir())

    def test_a_caller_that_was_killed_finds_its_jobs_again(self, tmp_path, profile):
        code = "import time; open('ran', 'a').write('x'); time.sleep(6); print('done')"
        tasks = [Task("only", python(code))]
        start = (
            "import sys, json; from pathlib import Path; from sohes.launch import *\n"
            f"run_tasks([Task('only', tuple(json.loads(sys.argv[1])))], kind='shard', group='test',"
            f" root=Path({str(tmp_path)!r}), profile=SlurmProfile.model_validate_json(sys.argv[2]))"
        )
        command = [*python(start), json.dumps(tasks[0].command), profile.model_dump_json()]
        caller = subprocess.Popen(command, env={**os.environ, **profile.environment})
        while not (tmp_path / "ran").exists():
            assert caller.poll() is None
            time.sleep(0.1)
        caller.kill()
        caller.wait()
        (outcome,) = launch(tasks, tmp_path, profile)
        assert (outcome.exit_code, outcome.last_lines[-1]) == (0, "done")
        assert (tmp_path / "ran").read_text() == "x"  # it was waited for, not run again

    def test_a_job_that_is_requeued_finishes_and_one_that_is_cancelled_is_reported(self, tmp_path, profile, slurm):
        code = (
            "import os, sys, time; n = sys.argv[1]; open(f'ran-{n}', 'a').write('x');"
            "time.sleep(60 * (os.path.getsize(f'ran-{n}') == 1)); print('done')"
        )
        tasks = [Task(name, python(code, name)) for name in ("requeued", "cancelled")]
        done = []

        def disturb(*_: int) -> None:
            jobs = Ledger(tmp_path, "slurm", "test").submissions[0].jobs
            slurm.until(lambda: all((tmp_path / f"ran-{t.name}").exists() for t in tasks), "they do not start")
            if not done:
                slurm.run("scontrol", "requeue", jobs["requeued"])
                slurm.run("scancel", jobs["cancelled"])
                done.append(True)

        requeued, cancelled = launch(tasks, tmp_path, profile, on_progress=disturb)
        assert (requeued.exit_code, requeued.last_lines[-1]) == (0, "done")
        assert (tmp_path / "ran-requeued").read_text() == "xx"
        assert cancelled.exit_code == 1
        assert "Slurm says CANCELLED" in cancelled.last_lines[-1]

    def test_an_interruption_leaves_no_job(self, tmp_path, profile, slurm):
        def interrupt(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            launch([Task("a", python("import time; time.sleep(99)"))], tmp_path, profile, on_progress=interrupt)
        slurm.until(lambda: not slurm.run("squeue", "-h", "-t", "pending,running").strip(), "a job is left")

    def test_training_spans_both_nodes(self, tmp_path, profile):
        (tmp_path / "member.py").write_text(
            "import os; from torch import distributed, ones; distributed.init_process_group('gloo')\n"
            "total = ones(1); distributed.all_reduce(total)\n"
            "print('node', os.environ['SLURM_NODEID'], 'of a world of', int(total))\n"
            "distributed.destroy_process_group()"
        )
        (outcome,) = launch([Task("train", (sys.executable, "-m", "member"))], tmp_path, profile, kind="train")
        assert outcome.exit_code == 0, outcome.log.read_text()
        folder = outcome.log.parent
        said = "".join(path.read_text() for path in folder.glob("*.out"))
        assert "node 0 of a world of 2" in said
        assert "node 1 of a world of 2" in said

    def test_what_slurm_refuses_is_one_sentence(self, tmp_path, profile):
        wrong = profile.model_copy(update={"partition": "nowhere"})
        with pytest.raises(SohesError, match=r"Slurm refuses the jobs: .*partition"):
            launch([Task("a", python("pass"))], tmp_path, wrong)
        assert not Ledger(tmp_path, "slurm", "test").submissions
