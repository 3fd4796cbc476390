"""Models that others share: on the Hugging Face hub, or as a file behind an address whose digest is known.

    hf://ORG/MODEL                    `model.safetensors` and its card there
    hf://ORG/MODEL/FILE@REVISION      another file, as `model.onnx`; another branch, tag or commit
    https://HOST/FILE#sha256=HEX      a .safetensors file, its card under the same address with .json; or an .onnx file

They are fetched once, checked, and kept in the user's cache folder. Of the hub's, the newest is taken wherever the hub
answers. Weights are safetensors or ONNX, which cannot run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from sohes.data.sources.transfer import Patience, fetch, shown
from sohes.errors import SohesError, first_sentence, require_package
from sohes.model import onnx
from sohes.project import read_json
from sohes.work.files import fitted
from sohes.work.surroundings import cache_home

HUB = "hf://"
FILE = "model.safetensors"
_SUFFIXES = (".safetensors", onnx.SUFFIX)
_PATIENCE = Patience(attempts=3, first_wait=0.5)  # somebody waits for the answer
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_shared(name: str) -> bool:
    return name.startswith((HUB, "https://", "http://"))


def fetch_shared(name: str) -> Path:
    """The model's file on this machine, with its card beside it unless it is an .onnx file.

    SohesError if the name is none, if it cannot be had, or if it is not what the digest says.
    """
    return _from_hub(name) if name.startswith(HUB) else _from_address(name)


def hub_name(name: str) -> tuple[str, str, str | None]:
    """The repository, file and revision of a name on the hub. SohesError for another kind of name."""
    path, _, revision = name.removeprefix(HUB).partition("@")
    repository, file = "/".join(path.split("/")[:2]), "/".join(path.split("/")[2:]) or FILE
    inside = not file.startswith("/") and ".." not in PurePosixPath(file).parts
    sound = name.startswith(HUB) and _NAME.fullmatch(repository) and inside
    if not sound or PurePosixPath(file).suffix not in _SUFFIXES:
        raise SohesError(f"{name} is no model on the hub: write hf://ORG/MODEL, or hf://ORG/MODEL/FILE@REVISION")
    return repository, file, revision or None


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns whatever the hub's client throws into one sentence; it has a dozen kinds. what: could not be done."""
    try:
        yield
    except SohesError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the client says where, what is behind it says why
            cause = cause.__cause__
        raise SohesError(
            f"{what} ({first_sentence(cause)}): check the name and the network, and for what is not public `hf auth "
            "login`"
        ) from None


def _from_hub(name: str) -> Path:
    repository, file, revision = hub_name(name)
    wanted = [file] if file.endswith(onnx.SUFFIX) else [file, str(PurePosixPath(file).with_suffix(".json"))]
    require_package("huggingface_hub")
    with hub_errors(f"cannot get {name}"):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    if lacking := [other for other in wanted if not (folder / other).is_file()]:
        raise SohesError(f"{name} has no {' and no '.join(lacking)}: name a model that `sohes push` has put there")
    return folder / file


def _from_address(name: str) -> Path:
    url, _, fragment = name.partition("#")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not found:
        raise SohesError(
            f"{shown(url)} needs the digest of what lies there: write {shown(url)}#sha256=, and the 64 digits that "
            "`sha256sum` prints"
        )
    address = urlsplit(url)
    path = PurePosixPath(unquote(address.path))  # decoded first, or an escaped slash in its name leads out of the cache
    if path.suffix not in _SUFFIXES or "\0" in path.name:
        raise SohesError(f"{shown(url)} is no model: name a {' or '.join(_SUFFIXES)} file")
    digest = f"sha256:{found[1].lower()}"
    file = cache_home() / "sohes/models" / found[1].lower() / fitted(path.name, 200)
    fetch(url, file, digest=digest, patience=_PATIENCE)
    if path.suffix != onnx.SUFFIX:
        card = PurePosixPath(address.path).with_suffix(".json")
        _fetch_card(address._replace(path=str(card)).geturl(), file, digest)
    return file


def _fetch_card(url: str, file: Path, digest: str) -> None:
    """The card beside the file. One for other weights is not kept, so that a corrected one is fetched next time."""
    card = file.with_suffix(".json")
    fetch(url, card, patience=_PATIENCE)
    try:
        of = read_json(card, "put the model's own card there", needs=["digest"])["digest"]
    except SohesError:
        card.unlink()
        raise
    if of != digest:
        card.unlink()
        raise SohesError(
            f"the card at {shown(url)} is for weights with the digest {of}, not {digest}: put its own there"
        )
