"""`sohes bench launch`. The work is that of `flows.overhead`, since what it measures are the flows."""

from __future__ import annotations

from typing import NoReturn

from sohes.launch.become import become


def bench_launch(launch: str = "", shards: int = 20) -> NoReturn:
    """Seconds of wall time that a stage and a shard take longer than their bare commands, by launch profile.

    launch: `local` or `slurm`; by default both, the second only where Slurm answers and else as null. Jobs ask for the
    least there is: one CPU, no GPU. A stage of a cluster is its shards as jobs, then one more job; what a shard takes
    longer there is counted over the whole array, with all nodes at work. The throwaway project lies in TMPDIR, which
    all nodes must share.
    """
    become("flows.overhead", "--launch", launch, "--shards", str(shards))
