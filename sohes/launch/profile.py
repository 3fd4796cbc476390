"""`infra/launch/*.yaml` as frozen, validated models: where commands run, with which resources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sohes.errors import SohesError
from sohes.params import Count, Positive, Section
from sohes.project import read_mapping


class Resources(Section):
    """What one task gets: `nodes` machines with `gpus`, `cpus` and `memory_gib` each, for at most `minutes`."""

    nodes: Positive
    gpus: Count
    cpus: Positive
    memory_gib: Positive
    minutes: Positive

    @property
    def processes(self) -> int:
        """Of a training on each machine: one for each GPU."""
        return max(self.gpus, 1)

    @property
    def together(self) -> bool:
        """Whether several processes train together."""
        return self.nodes * self.processes > 1


class _Profile(Section):
    environment: dict[str, str]  # added to that of the command
    grace_seconds: Annotated[float, Field(ge=0)]  # from SIGTERM to SIGKILL when a task is interrupted


class LocalProfile(_Profile):
    launcher: Literal["local"]


class _Cluster(_Profile):
    poll_seconds: Annotated[float, Field(gt=0)]  # between two looks at what has become of the jobs
    at_once: Positive  # jobs of shards that run at the same time
    shards_per_job: Positive  # one after another, by one command
    cpu: Resources  # what runs no network: pull's shards and its end, and report
    shard: Resources  # a job of shards of explore or evaluate
    whole: Resources  # any other stage that does not split, and the end of one that does
    train: Resources  # backbone, instruct, correct

    def asked_for(self, kind: str) -> dict[str, object]:
        """What a job of that kind is made from; not how it is waited for, nor how many run at the same time."""
        waiting = {"poll_seconds", "at_once", "grace_seconds", "keep_seconds"}
        others = {"cpu", "shard", "whole", "train"} - {kind}
        return self.model_dump(mode="json", exclude=waiting | others)

    @model_validator(mode="after")
    def _only_training_spans_nodes(self) -> _Cluster:
        if any(resources.nodes != 1 for resources in (self.cpu, self.shard, self.whole)):
            raise ValueError("only train can have several nodes")
        return self


class SlurmProfile(_Cluster):
    launcher: Literal["slurm"]
    partition: str | None
    account: str | None
    setup: tuple[str, ...]  # lines of shell before the command: `module load ...`
    python: str | None  # what starts Python there, such as `apptainer exec --nv sohes.sif python`; None: this one
    requeue: bool  # after preemption or the failure of a node
    options: dict[str, str | int | bool]  # further options of sbatch, without their dashes


class Volume(Section):
    """A claim that exists, and where it is mounted. The project's folder must lie on one."""

    claim: str
    path: str


class KubernetesProfile(_Cluster):
    launcher: Literal["kubernetes"]
    namespace: str
    image: str
    python: str  # in the image
    service_account: str | None
    gpu_resource: str  # nvidia.com/gpu, amd.com/gpu
    node_selector: dict[str, str]
    tolerations: tuple[dict[str, str], ...]
    shared_memory_gib: Positive  # /dev/shm, for the workers that load data
    volumes: tuple[Volume, ...]
    secrets: tuple[str, ...]  # whose keys become environment variables
    user: Annotated[int, Field(gt=0)]  # uid and gid of the processes; never root
    keep_seconds: Count  # how long the cluster keeps a job that ended, if nobody cleans up
    restarts: Count  # of a pod that failed or was evicted, before its task counts as failed


Profile = LocalProfile | SlurmProfile | KubernetesProfile
_ANY: TypeAdapter[Profile] = TypeAdapter(Annotated[Profile, Field(discriminator="launcher")])


def load_profile(folder: Path, name: str | None = None) -> Profile:
    """Read `<folder>/<name>.yaml`; without a name SOHES_LAUNCH decides, else `local`.

    SohesError names the profiles that exist, or the key that is wrong.
    """
    name = name or os.environ.get("SOHES_LAUNCH") or "local"
    profiles = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in profiles:
        existing = ", ".join(profiles) or "none"
        raise SohesError(
            f"no launch profile {name!r} in {folder} (there is: {existing}): correct SOHES_LAUNCH or --launch"
        )
    try:
        return _ANY.validate_python(read_mapping(profiles[name]))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise SohesError(f"{profiles[name]}: {wrong}") from None
