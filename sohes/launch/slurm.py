"""Tasks as Slurm jobs, by submitit: an array of shards, or one job over several nodes that trains.

Every submission has a fresh folder under `.sohes/slurm/`, since Slurm reuses job ids after a reset and submitit would
then take an old result for the new one. A job may run twice (requeued after preemption): tasks are idempotent.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sohes.errors import SohesError, TemporaryError
from sohes.launch.ledger import Ledger, Submission
from sohes.launch.profile import Resources, SlurmProfile
from sohes.launch.task import Launch, Outcome, Task, last_lines, pause, with_python
from sohes.launch.together import training_here
from sohes.project import Project

ARRAY = 1000  # tasks in one array; Slurm's own limit is 1,001 unless its administrator has raised it
FAILED = 1
MAY_PASS = (
    "timed out",
    "unable to contact",
    "try again",
)  # in what Slurm says of a controller that is busy or restarts
KILL_WAIT = 300  # seconds; longer than Slurm's own KillWait, 30 by default


class Command:
    """What submitit runs in the job: one command in a folder. Returns its exit code.

    The profile's `python` started the job, perhaps in a container: the command runs under the same Python.
    """

    def __init__(self, command: tuple[str, ...], root: Path, environment: Mapping[str, str], train: Resources | None):
        self.command, self.root, self.environment, self.train = with_python(command, "python"), root, environment, train
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def __call__(self) -> int:
        # The flow's number, which sbatch has handed on, counts the CPUs of the flow's machine.
        inherited = {name: value for name, value in os.environ.items() if name != "SOHES_WORKERS"}
        environment = {**inherited, **self.environment, "PYTHONUNBUFFERED": "1"}
        told_to_end: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
        self._process = subprocess.Popen(self._here(), cwd=self.root, env=environment, stderr=subprocess.STDOUT)
        code = self._process.wait()
        if code != 0 and (told_to_end or code in (-signal.SIGTERM, 128 + signal.SIGTERM)):  # torchrun ends with 1
            # Slurm is ending the job, and this process is next. Returning would report as failed a job that was
            # cancelled or will come back from the queue.
            time.sleep(KILL_WAIT)
        return code

    def _here(self) -> list[str]:
        command = with_python(self.command, sys.executable)  # the job's
        if self.train is None or not self.train.together:
            return list(command)
        return list(training_here(command, nodes=self.train.nodes, processes=self.train.processes))

    def checkpoint(self) -> Any:
        """Called before the job is preempted or out of time: let the command save its state and requeue it."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        return DelayedSubmission(self)


def run_slurm(tasks: Sequence[Task], launch: Launch, profile: SlurmProfile) -> list[Outcome]:
    """Submit the tasks that have no job yet and wait for all. An interruption cancels the jobs, kill -9 leaves them.

    SohesError if Slurm refuses; TemporaryError, and jobs go on, if it does not answer: the next call cancels what
    it may have queued unseen. A job that failed is cancelled for good, since Slurm might requeue it unnoticed.
    """
    ledger = Ledger(launch.root, "slurm", launch.group)
    jobs: dict[str, Any] = {}
    wanted = {task.name: task for task in tasks}
    try:
        for submission in list(ledger.submissions):
            if not submission.jobs:  # we were killed before or after submitting: nobody knows which
                _scancel(["--name", submission.name])
                ledger.drop(submission)
            for name, job in _attach(submission, launch.root).items():
                if name in wanted and submission.answers(wanted[name], launch.digest):
                    jobs[name] = job
                elif not job.done():
                    job.cancel()
            if submission.digest != launch.digest:
                ledger.drop(submission)
        new = [task for task in tasks if task.name not in jobs]
        for start in range(0, len(new), ARRAY):
            part = new[start : start + ARRAY]
            jobs |= _submit(part, launch, ledger, profile)
        _wait(list(jobs.values()), profile.poll_seconds, launch.on_progress)
        outcomes = [_outcome(jobs[task.name]) for task in tasks]
    except TemporaryError:
        raise  # the ledger stays, and the next call finds the jobs
    except BaseException:
        for job in jobs.values():
            with contextlib.suppress(subprocess.CalledProcessError, OSError):
                if not job.done():
                    job.cancel()
        ledger.close()
        raise
    launch.record_if_done(outcomes)
    ledger.close()
    return outcomes


def _folder(root: Path, name: str) -> Path:
    return Project(root).state("slurm") / name


def _submit(tasks: list[Task], launch: Launch, ledger: Ledger, profile: SlurmProfile) -> dict[str, Any]:
    import submitit

    submission = ledger.open(tasks, launch.digest)
    resources: Resources = getattr(profile, launch.kind)
    try:
        executor = submitit.SlurmExecutor(_folder(launch.root, submission.name), python=profile.python)
    except RuntimeError:
        ledger.drop(submission)
        raise SohesError("there is no srun here: run on a login node of the cluster, or with --launch local") from None
    executor.update_parameters(**sbatch_parameters(profile, resources, submission.name))
    variables = {**profile.environment, **launch.environment}
    train = resources if launch.kind == "train" else None
    commands = [Command(task.command, launch.root, variables, train) for task in tasks]
    try:
        with executor.batch():
            jobs = [executor.submit(command) for command in commands]
    except submitit.core.utils.FailedJobError as error:
        said = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        _require_answer(str(error), said[-1])
        ledger.drop(submission)
        raise SohesError(f"Slurm refuses the jobs: {said[-1].strip()} (fix infra/launch)") from None
    named = {task.name: job for task, job in zip(tasks, jobs, strict=True)}
    ledger.submitted(submission, {name: job.job_id for name, job in named.items()})
    return named


def sbatch_parameters(profile: SlurmProfile, resources: Resources, name: str) -> dict[str, Any]:
    """The profile as submitit's parameters."""
    options = {key: value for key, value in profile.options.items() if value is not False}
    values: dict[str, Any] = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": resources.cpus,
        "mem": f"{resources.memory_gib}GB",
        "setup": list(profile.setup) or None,
        "array_parallelism": profile.at_once,
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={resources.cpus}"],  # which Slurm 22.05 to 23.02 does not take from sbatch
        "additional_parameters": {("requeue" if profile.requeue else "no-requeue"): True, **options},
    }
    if resources.gpus:
        values["gpus_per_node"] = resources.gpus
    return {key: value for key, value in values.items() if value is not None}


def _attach(submission: Submission, root: Path) -> dict[str, Any]:
    import submitit

    folder = _folder(root, submission.name)
    return {name: submitit.SlurmJob(folder=folder, job_id=number) for name, number in submission.jobs.items()}


def _wait(jobs: list[Any], poll_seconds: float, on_progress: Callable[[int, int], None]) -> None:
    """Wait until every job has a result, or Slurm says that it will have none. Young jobs are polled more often."""
    reported = -1
    began = time.monotonic()
    while True:
        pending = [job for job in jobs if not job.paths.result_pickle.exists()]
        if pending:
            for job in pending:
                job.watcher.register_job(job.job_id)
            pending[0].watcher.update()  # one call of sacct for all of them
            pending = [job for job in pending if not job.watcher.is_done(job.job_id, mode="cache")]
        if len(jobs) - len(pending) != reported:
            reported = len(jobs) - len(pending)
            on_progress(reported, len(jobs))
        if not pending:
            return
        time.sleep(pause(time.monotonic() - began, poll_seconds))


def _outcome(job: Any) -> Outcome:
    log = Path(job.paths.stdout)
    for _ in range(20):  # files appear late on a shared file system
        if job.paths.result_pickle.exists():
            break
        if job.watcher.get_state(job.job_id, mode="cache").upper() != "COMPLETED":
            break
        time.sleep(0.5)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = last_lines("\n".join(line for line in lines if not line.startswith("submitit ")))
    try:
        state, result = pickle.loads(job.paths.result_pickle.read_bytes())  # written by our own job, in our own folder
        code = result if state == "success" else FAILED
        said = said if state == "success" else (*said, str(result).strip().splitlines()[-1])
    except FileNotFoundError:
        word = job.watcher.get_state(job.job_id, mode="force")
        code, said = FAILED, (*said, f"Slurm says {word} of job {job.job_id}")
    if code != 0:  # Slurm may have queued it again
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            job.cancel()
    return Outcome(code, log, said)


def _scancel(arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(["scancel", *arguments], check=False, capture_output=True, text=True)
    except OSError as error:
        raise SohesError(f"cannot run scancel: {error.strerror}: run on a login node of the cluster") from None
    _require_answer(done.stderr, done.stderr)


def _require_answer(error: str, said: str) -> None:
    """TemporaryError if Slurm's controller did not answer, so that nobody knows what it has done."""
    if any(words in error.lower() for words in MAY_PASS):
        raise TemporaryError(f"Slurm does not answer: {said.strip()}: run the same command again later")
