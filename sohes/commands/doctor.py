"""`sohes doctor`: whether this machine has what a run needs, and the memory for its training."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sohes.backbone.hub import is_cached
from sohes.commands.findings import Finding, State, answers, listens, verdict
from sohes.commands.options import HERE, ParamsFile
from sohes.errors import SohesError, is_installed
from sohes.explore.refine import what_it_lacks
from sohes.model.released import start_of
from sohes.params import WEIGHT_FILES, CorrectParams, InstructParams, Params, load_params_anywhere, weights_in
from sohes.project import Project, dvc_settings, read_json, require_git
from sohes.tracking import tracking_uri
from sohes.tracking.store import database_file, without_secrets
from sohes.work.cgroup import memory_limit
from sohes.work.compiled import kept_in
from sohes.work.surroundings import cache_home, may_write, temporary_home

if TYPE_CHECKING:  # it imports torch, which the functions below do when they need it
    from sohes.model.footprint import Footprint

PYTHON = ((3, 11), (3, 14))
LEAST_DISK = 5 * 10**9  # bytes: a project's images, labels and models of the smallest profiles
OWN_MEMORY = {"cuda": 1.0 * 10**9, "cpu": 1.5 * 10**9}  # bytes: CUDA's context; Python with its libraries


def doctor(
    params: ParamsFile = HERE.params,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That train together; by default, the GPUs here.")
    ] = None,
) -> None:
    """Check that this machine can run the profile.

    With the remedy where it cannot, and whether the training fits into its memory.

    Example: sohes doctor --params params/one-gpu.yaml. The last line is the verdict; exit code 1 if it cannot.
    """
    findings = run(load_params_anywhere(params), Path.cwd(), processes=processes)
    for found in findings:
        print(f"{found.state:10}{found.what:9}{found.words}")
    print(verdict(findings, params))
    if any(found.state is State.broken for found in findings):
        raise typer.Exit(1)


def run(params: Params, root: Path, *, processes: int | None = None) -> list[Finding]:
    """Check everything. processes: that share a training batch, on all machines; the GPUs of this one by default."""
    findings = [_python(), _torch(params), _disk(root), _caches(), *_refiner(params)]
    if is_installed("torch"):
        findings += [*_extras(params), *_training(params, processes), _weights(params, root), _hub(params, root)]
    return [
        *findings,
        _mlflow(root),
        _prefect(),
        _dvc(root),
        _slurm(),
        _s3(params, root),
    ]


# ---------------------------------------------------------------- this machine


def _python() -> Finding:
    low, high = PYTHON
    here = f"{platform.python_version()} in {sys.prefix}"
    if low <= sys.version_info[:2] <= high:
        return Finding("Python", State.ok, here)
    first, last = (".".join(map(str, version)) for version in PYTHON)
    return Finding("Python", State.broken, f"{here}: make a virtual environment with {first} to {last}")


def _torch(params: Params) -> Finding:
    if not is_installed("torch"):
        words = "torch is not installed: `pip install 'sohes[torch]'` to train; phase 1 and ONNX models do without"
        return Finding("GPU", State.missing, words)
    import torch

    if torch.cuda.is_available():
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("GPU", State.ok, f"{cards} (torch {torch.__version__})")
    without = f"torch {torch.__version__} sees none"
    if params.instruct.optim.amp or params.correct.optim.amp:  # which is for a GPU's arithmetic
        words = f"{without}, and these params train a network for one: phase 1 and `sohes segment` do without"
        return Finding("GPU", State.missing, words)
    return Finding("GPU", State.optional, f"{without}: these params train on the CPU")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    if free >= LEAST_DISK:
        return Finding("disk", State.ok, f"{_gb(free)} free in {root}")
    return Finding("disk", State.broken, f"only {_gb(free)} free in {root}: make room for {_gb(LEAST_DISK)} at least")


def _caches() -> Finding:
    """Where compiled functions, fonts and weights are kept; `sohes.work.surroundings` has chosen."""
    folder, home = kept_in(), cache_home()
    if folder is None:
        words = "compiled functions are kept nowhere, so every process spends half a minute on them"
        return Finding("caches", State.missing, f"{words}: set NUMBA_CACHE_DIR to a folder that you can write to")
    words = f"compiled functions in {folder}, libraries' files in {home}"
    if temporary_home() in (home, *folder.parents):
        return Finding("caches", State.missing, f"{words}: set HOME or XDG_CACHE_HOME to a folder that lasts")
    return Finding("caches", State.ok, words)


def _extras(params: Params) -> Iterator[Finding]:
    """Packages that these params or the environment ask for and that are missing."""
    from sohes.model.detectron2_heads import require_detectron2
    from sohes.model.sampling import SWITCH, compiled_operator

    for wanted in (
        partial(compiled_operator, os.environ.get(SWITCH, "builtin")),
        require_detectron2 if params.model.head == "detectron2-cascade" else None,
    ):
        try:
            if wanted is not None:
                wanted()
        except SohesError as error:
            yield Finding("extras", State.broken, str(error))


def _refiner(params: Params) -> Iterator[Finding]:
    if reason := what_it_lacks(params.explore.refiner):
        yield Finding("refiner", State.broken, reason)


def _training(params: Params, processes: int | None) -> Iterator[Finding]:
    import torch

    from sohes.model.footprint import training_footprint

    count = processes or max(1, torch.cuda.device_count() if torch.cuda.is_available() else 1)
    device, room = _room()
    start = start_of(params.instruct, HERE.root)
    if start is not None and not start.is_file():
        yield Finding("start", State.broken, f"no model at {start}: set instruct.start to another, or to null")
    for name, phase in (("instruct", params.instruct), ("correct", params.correct)):
        try:
            need = training_footprint(params, phase, processes=count)
        except ValueError as error:
            yield Finding(name, State.broken, f"{error}: change {name}.batch_size or accumulate, or --processes")
            continue
        except SohesError as error:  # a model that phase 2 begins with, or a ViT that does not carry the network
            yield Finding(name, State.broken, str(error))
            continue
        recomputed = params.model.recompute_blocks
        yield judge(name, phase, need, device=device, room=room, processes=count, recomputed=recomputed)


def judge(
    name: str,
    phase: InstructParams | CorrectParams,
    need: Footprint,
    *,
    device: str,
    room: float,
    processes: int,
    recomputed: bool,
) -> Finding:
    """Whether a phase's training fits into `room` bytes of the device (`cuda` or `cpu`).

    recomputed: `model.recompute_blocks` is set already, so it is no remedy.
    """
    total = need.total + OWN_MEMORY[device]
    where = "the GPU's" if device == "cuda" else "the"
    words = (
        f"about {_gb(total)} of {where} {_gb(room)} memory: {need.parameters / 1e6:.1f} million weights with their "
        f"optimizer {_gb(need.state)}, {need.images} images at once {_gb(need.activations)}"
    )
    if total <= room:
        return Finding(name, State.ok, words)
    remedy = f"lower model.image_size, or train with more than {processes} processes"
    if not recomputed:
        remedy = f"set model.recompute_blocks, {remedy}"
    if need.images > (2 if isinstance(phase, CorrectParams) else 1):
        remedy = f"raise {name}.accumulate above {phase.accumulate} (of a batch of {phase.batch_size}), {remedy}"
    return Finding(name, State.broken, f"{words}: {remedy}")


def _room() -> tuple[str, float]:
    """The device that training uses and its memory in bytes: of the smallest GPU, or of this machine or container."""
    import torch

    if torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return "cuda", float(min(sizes))
    memory, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_limit()
    return "cpu", float(memory if limit is None else min(memory, limit))


# ---------------------------------------------------------------- weights


def _weights(params: Params, root: Path) -> Finding:
    made = Project(root).model("backbone")
    if not made.exists():
        return _source(params, root)
    if _is_made_of(made, params):
        return Finding("weights", State.ok, f"{made}")
    source = _source(params, root)
    return replace(source, words=f"{source.words}; {made} is there, but its card does not name these params")


def _is_made_of(backbone: Path, params: Params) -> bool:
    """Whether its card says what stage `backbone` would write for these params."""
    from sohes.stages.backbone import made_of

    try:
        card = read_json(backbone.with_suffix(".json"), "")
    except (OSError, SohesError):  # missing or damaged: the stage makes both again
        return False
    return made_of(params).items() <= card.items()


def _source(params: Params, root: Path) -> Finding:
    """Where stage `backbone` would get the weights."""
    wanted = weights_in(root, params.backbone.source)
    if wanted == "train":
        return Finding("weights", State.ok, "none needed: `sohes backbone` trains them (backbone.pretrained: train)")
    if wanted.endswith(WEIGHT_FILES):
        there = Path(wanted).exists()
        words = wanted if there else f"no file {wanted}: fix backbone.pretrained"
        return Finding("weights", State.ok if there else State.broken, words)
    if is_cached(_on_the_hub(wanted)):
        return Finding("weights", State.ok, f"{wanted}, in the hub's cache on this machine")
    return Finding("weights", State.missing, f"{wanted} is not here yet: `sohes backbone` fetches it from the hub")


def _on_the_hub(name: str) -> str:
    """The name with the repository that timm fetches it from: some lie under another, or have no tag in their name."""
    import timm

    published = timm.get_pretrained_cfg(name)
    return f"hf-hub:{published.hf_hub_id}" if published and published.hf_hub_id else name


def _hub(params: Params, root: Path) -> Finding:
    from huggingface_hub import constants

    without = State.broken if _weights(params, root).state is State.missing else State.optional
    remedy = "fetch the weights elsewhere and set backbone.pretrained to the file"
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", without, f"switched off by HF_HUB_OFFLINE: unset it, or {remedy}")
    return answers("hub", constants.ENDPOINT, "", f"check the network, or {remedy}", without=without)


# ---------------------------------------------------------------- servers


def _mlflow(root: Path) -> Finding:
    uri = tracking_uri(root)
    if os.environ.get("SOHES_TRACKING", "on").lower() == "off":
        return Finding("MLflow", State.optional, "switched off by SOHES_TRACKING: unset it to record runs")
    if not is_installed("mlflow"):
        words = "not installed: figures go to metrics/curves only; `pip install 'sohes[pipeline]'` to record runs"
        return Finding("MLflow", State.optional, words)
    remedy = "start the server, fix MLFLOW_TRACKING_URI, or unset it for a local database"
    if uri.startswith(("http://", "https://")):
        return answers("MLflow", uri, "/health", remedy)
    file, shown = database_file(uri), without_secrets(uri)
    if file is None:
        return listens("MLflow", uri, remedy)
    if may_write(file):
        return Finding("MLflow", State.ok, f"{shown}; `python -m flows.ui` shows it")
    return Finding("MLflow", State.broken, f"{shown} cannot be written to: fix its permissions, or SOHES_TRACKING=off")


def _prefect() -> Finding:
    if not is_installed("prefect"):
        return Finding("Prefect", State.optional, "not installed: `pip install 'sohes[pipeline]'` for the flows")
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        words = "no PREFECT_API_URL: `python -m flows.pipeline` starts a server of its own for each run"
        return Finding("Prefect", State.optional, f"{words}; `python -m flows.ui` starts one that stays")
    return answers("Prefect", url, "/health", "start the server, or unset PREFECT_API_URL")


def _dvc(root: Path) -> Finding:
    if not is_installed("dvc"):
        return Finding("DVC", State.optional, "not installed: `pip install 'sohes[pipeline]'` for `dvc repro`")
    if not Project(root).dvc.is_dir():
        words = f"{root} is not a DVC project: `dvc repro` needs a project's folder, such as `sohes init` makes"
        return Finding("DVC", State.optional, words)
    try:
        require_git(root)
    except SohesError as error:
        return Finding("DVC", State.broken, str(error))
    if remote := _remote(root):
        return Finding("DVC", State.ok, "remote {}: {}".format(*remote))
    words = "results stay on this machine: `dvc remote add --default NAME URL` for a place to share them"
    return Finding("DVC", State.optional, f"no default remote; {words}")


def _remote(root: Path) -> tuple[str, str] | None:
    """The name and address of DVC's default remote."""
    config = dvc_settings(root)
    sections = {name.strip("'"): config[name] for name in config.sections()}  # DVC writes ['remote "NAME"']
    default = config.get("core", "remote", fallback="")
    section = sections.get(f'remote "{default}"')
    return None if section is None else (default, section.get("url", "without a url"))


def _slurm() -> Finding:
    if found := shutil.which("sbatch"):
        return Finding("Slurm", State.ok, found)
    return Finding("Slurm", State.optional, "no sbatch here: only needed for the launch profile slurm, on a login node")


def _s3(params: Params, root: Path) -> Finding:
    files = [Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", Path("~/.aws/credentials").expanduser()))]
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE") or any(f.exists() for f in files):
        return Finding("S3", State.ok, f"credentials found, for {os.environ.get('AWS_ENDPOINT_URL', 'the default')}")
    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    remote = _remote(root)
    if params.pull.source == "s3" or (remote and remote[1].startswith("s3://")):
        user = "pull.source" if params.pull.source == "s3" else "DVC's remote"
        return Finding("S3", State.missing, f"no credentials for {user}: {remedy}, unless the machine has a role")
    return Finding("S3", State.optional, f"no credentials: only needed for s3:// sources and remotes; {remedy}")


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"
