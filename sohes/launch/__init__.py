"""Where a command runs: a profile from `infra/launch/`, chosen by SOHES_LAUNCH.

A task is one shell command: a person can paste what a launcher runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sohes.errors import require_package
from sohes.launch.local import run_task
from sohes.launch.profile import KubernetesProfile, LocalProfile, Profile, SlurmProfile, load_profile
from sohes.launch.task import LAST_LINES, Kind, Launch, Outcome, Task
from sohes.work.identity import identity

__all__ = [
    "LAST_LINES", "Kind", "KubernetesProfile", "LocalProfile", "Outcome", "Profile", "SlurmProfile", "Task",
    "load_profile", "run_task", "run_tasks",
]  # fmt: skip


def run_tasks(
    tasks: Sequence[Task],
    *,
    kind: Kind,
    group: str,
    root: Path,
    profile: Profile,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    record: Callable[[], None] = lambda: None,
    inputs: str = "",
) -> list[Outcome]:
    """Run tasks where the profile says, wait for them, and return their outcomes in order.

    group: names this set of tasks; a caller that was killed and asks for the same group again waits for the jobs that
    are still running, and cancels those that were asked for with other inputs. inputs: a digest of what they read.
    record: called when all have succeeded; if it fails, their jobs stay known to the next call. kind: which of the
    profile's resources each gets. On this machine they run one after the other.
    """
    if not tasks:
        return []
    digest = identity([inputs, {} if isinstance(profile, LocalProfile) else profile.asked_for(kind)])
    launch = Launch(kind, group, root, environment or {}, on_line, on_progress, record, digest)
    if isinstance(profile, SlurmProfile):
        require_package("submitit")
        from sohes.launch.slurm import run_slurm

        return run_slurm(tasks, launch, profile)
    if isinstance(profile, KubernetesProfile):
        require_package("kubernetes")
        from sohes.launch.kubernetes import run_kubernetes

        return run_kubernetes(tasks, launch, profile)
    outcomes = []
    for done, task in enumerate(tasks, 1):
        name = f"{group}-{task.name}"
        outcome = run_task(
            task.command, task=name, root=root, profile=profile, environment=environment, on_line=on_line
        )
        outcomes.append(outcome)
        on_progress(done, len(tasks))
    launch.record_if_done(outcomes)
    return outcomes
