"""On a node of a Slurm job: the processes of a stage that train together with those of the other nodes.

srun python -m sohes.launch.together STAGE
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from sohes.launch.task import PORT, torchrun


def training_here(command: tuple[str, ...], *, nodes: int, processes: int) -> tuple[str, ...]:
    """What starts the processes of this node, as srun has told it where it is. processes: on each node."""
    # The first node's address as Slurm knows it; a name need not be known to every node's resolver.
    head = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or _first_name()
    job = os.environ["SLURM_JOB_ID"]
    port = PORT + int(job) % 1000  # two jobs may have the same first node
    return torchrun(command, nodes=nodes, processes=processes, head=head, port=port, run=job)


def _first_name() -> str:
    from submitit import JobEnvironment

    return JobEnvironment().hostnames[0]


def main() -> NoReturn:
    """Replace this process, so that signals and the exit code are torchrun's own."""
    nodes, gpus = int(os.environ["SLURM_JOB_NUM_NODES"]), int(os.environ.get("SLURM_GPUS_ON_NODE", "0"))
    command = (sys.executable, "-m", "sohes", *sys.argv[1:])
    command = training_here(command, nodes=nodes, processes=max(gpus, 1))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
