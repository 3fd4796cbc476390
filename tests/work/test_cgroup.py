"""Limits of control groups, as files that look like the kernel's."""

from pathlib import Path

import pytest

from sohes.commands import doctor
from sohes.work import cgroup
from sohes.work.cgroup import cpu_limit, memory_limit
from sohes.work.pool import default_workers

V1 = "4:memory:/kubepods/pod1\n3:cpuset:/\n2:cpu,cpuacct:/kubepods/pod1\n0::/\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the kernel's files: `own` is /proc/self/cgroup, the others lie below /sys/fs/cgroup."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "sys")
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    monkeypatch.delenv("SOHES_WORKERS", raising=False)

    def make(own: str | None, files: dict[str, str]) -> None:
        if own is not None:
            (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return make


@pytest.mark.parametrize(
    ("own", "files", "cpus", "memory"),
    [
        # a container, which sees its own group as the root
        ("0::/\n", {"cpu.max": "800000 100000", "memory.max": "51539607552"}, 8.0, 48 * 2**30),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        # a job of Slurm, limited by the second group from inside
        (
            "0::/slurm/job_1/step_0\n",
            {"slurm/job_1/cpu.max": "250000 100000", "slurm/job_1/step_0/cpu.max": "max 100000",
             "slurm/cpu.max": "6400000 100000", "slurm/job_1/memory.max": "1000",
             "slurm/job_1/step_0/memory.max": "max"},
            2.5,
            1000,
        ),
        # a container that is told its group's place on the machine, which it cannot see
        ("0::/kubepods/pod1\n", {"cpu.max": "200000 100000"}, 2.0, None),
        ("0::/../pod2\n", {"cpu.max": "200000 100000"}, 2.0, None),
        # version 1, on the machine and in a container
        (
            V1,
            {"cpu/kubepods/pod1/cpu.cfs_quota_us": "400000", "cpu/kubepods/pod1/cpu.cfs_period_us": "100000",
             "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
             "memory/kubepods/pod1/memory.limit_in_bytes": "2000", "memory/memory.limit_in_bytes": str(2**63 - 4096)},
            4.0,
            2000,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, None),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        # no groups, as on macOS
        (None, {}, None, None),
    ],
)  # fmt: skip
def test_the_least_of_the_groups_around_this_process_counts(kernel, own, files, cpus, memory):
    kernel(own, files)
    assert (cpu_limit(), memory_limit()) == (cpus, memory)


@pytest.mark.parametrize(
    ("quota", "workers"), [("800000", 8), ("250000", 2), ("50000", 1), ("max", 96), ("99900000", 96)]
)
def test_a_pool_has_a_process_for_each_cpu_of_the_container_not_of_its_node(kernel, monkeypatch, quota, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(96)), raising=False)
    kernel("0::/\n", {"cpu.max": f"{quota} 100000"})
    assert default_workers() == workers
    monkeypatch.setenv("SOHES_WORKERS", "3")
    assert default_workers() == 3


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_doctor_sees_the_memory_of_the_container(kernel, monkeypatch, file):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    kernel("4:memory:/\n0::/\n", {file: "1000000"})
    assert doctor._room() == ("cpu", 1e6)
