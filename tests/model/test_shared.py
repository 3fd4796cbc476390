from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import Hub, point_to, serving_hub

import sohes
from sohes.errors import SohesError
from sohes.model.shared import fetch_shared
from sohes.tracking.named import named_model

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub(monkeypatch) as hub:
        yield hub


def files_of(model: Path, name: str = "model") -> dict[str, bytes]:
    return {f"{name}{end}": model.with_suffix(end).read_bytes() for end in (".safetensors", ".json")}


def same(model, other) -> bool:
    return model.segment(IMAGE).found.rles == other.segment(IMAGE).found.rles


# ---------------------------------------------------------------- the hub


def test_a_model_of_the_hub_is_loaded_and_kept(hub: Hub, tiny_model: Path) -> None:
    hub.repositories["me/cups"] = [files_of(tiny_model) | {"README.md": b"not wanted"}]
    assert same(sohes.load("hf://me/cups"), sohes.load(tiny_model))
    asked = len(hub.requests)
    assert not [request for request in hub.requests if "README" in request]
    hub.dead = True
    assert fetch_shared("hf://me/cups").read_bytes() == tiny_model.read_bytes()  # from the cache
    assert not [request for request in hub.requests[asked:] if "resolve" in request]


def test_another_file_and_another_revision_can_be_named(hub: Hub, tiny_model: Path) -> None:
    other = {"small/best.safetensors": b"weights", "small/best.json": b"{}"}
    hub.repositories["me/cups"] = [other, files_of(tiny_model)]
    assert fetch_shared(f"hf://me/cups/small/best.safetensors@{1:040x}").read_bytes() == b"weights"
    assert fetch_shared("hf://me/cups").read_bytes() == tiny_model.read_bytes()
    with pytest.raises(SohesError, match=r"has no small/best\.safetensors and no small/best\.json"):
        fetch_shared("hf://me/cups/small/best.safetensors")


def test_a_damaged_model_of_the_hub_is_refused(hub: Hub, tiny_model: Path) -> None:
    files = files_of(tiny_model)
    hub.repositories["me/cups"] = [files | {"model.safetensors": files["model.safetensors"][:-8] + bytes(8)}]
    with pytest.raises(SohesError, match="is not the file that its card describes"):
        sohes.load("hf://me/cups")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://me/absent", r"cannot get hf://me/absent \(.*404.*\): check the name and the network"),
        ("hf://me/cups@v9", r"cannot get hf://me/cups@v9 \(.*404.*\): check the name"),
        ("hf://me/empty", "hf://me/empty has no model.safetensors and no model.json"),
        ("hf://me", "hf://me is no model on the hub: write hf://ORG/MODEL"),
        ("hf://me/cups/../x.onnx", "is no model on the hub"),
        ("hf://me/cups/weights.bin", "is no model on the hub"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(hub: Hub, name: str, words: str) -> None:
    hub.repositories |= {"me/cups": [{"model.json": b"{}"}], "me/empty": [{"README.md": b""}]}
    with pytest.raises(SohesError, match=words) as told:
        sohes.load(name)
    assert "\n" not in str(told.value)


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:1", monkeypatch)
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        with pytest.raises(SohesError, match=r"cannot get hf://me/cups \(.+\): check the name and the network") as told:
            sohes.load("hf://me/cups")
        assert "\n" not in str(told.value)


# ---------------------------------------------------------------- addresses


def put(web, model: Path, name: str) -> str:
    """Serves a model; its address with its digest."""
    shutil.copy(model, web.folder / name)
    if model.with_suffix(".json").exists():
        shutil.copy(model.with_suffix(".json"), (web.folder / name).with_suffix(".json"))
    return f"{web.url}/{name}#sha256={hashlib.sha256(model.read_bytes()).hexdigest()}"


@pytest.fixture
def quick(web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sohes.data.sources.transfer.time.sleep", lambda _: None)
    return web


@pytest.mark.parametrize("faults", [[], ["503", "cut"], ["cut", "cut", "", "cut"]])
def test_a_model_behind_an_address_is_fetched_once(quick, tiny_model: Path, cache: Path, faults: list[str]) -> None:
    address = put(quick, tiny_model, "release.safetensors")
    quick.faults.next += faults
    assert same(sohes.load(address), sohes.load(tiny_model))
    asked = len(quick.faults.paths)
    start, digest = address[:-64], address[-64:]
    assert sohes.load(start + digest.upper()).source == "release"
    assert len(quick.faults.paths) == asked
    assert not list(cache.rglob("*.part"))


def test_an_onnx_file_behind_an_address_has_its_card_inside(quick) -> None:
    (quick.folder / "a.onnx").write_bytes(b"a network and its card")
    digest = hashlib.sha256((quick.folder / "a.onnx").read_bytes()).hexdigest()
    assert fetch_shared(f"{quick.url}/a.onnx#sha256={digest}").read_bytes() == b"a network and its card"
    assert quick.faults.paths == ["/a.onnx"]


@pytest.mark.parametrize("name", ["..%2F..%2Fa.onnx", "%2Ftmp%2Fa.onnx", "b%2f..%2fa.onnx"])
def test_an_escaped_slash_does_not_lead_out_of_the_cache(quick, cache: Path, monkeypatch, name: str) -> None:
    fetched = []
    monkeypatch.setattr("sohes.model.shared.fetch", lambda url, file, **_: fetched.append(file))
    file = fetch_shared(f"{quick.url}/{name}#sha256={'0' * 64}")
    assert (fetched, file.name, file.parent.name) == ([file], "a.onnx", "0" * 64)
    assert file.resolve().is_relative_to(cache.resolve())


def test_a_wrong_digest_leaves_nothing(quick, tiny_model: Path, cache: Path) -> None:
    address = put(quick, tiny_model, "a.safetensors")[:-64] + "0" * 64
    with pytest.raises(SohesError, match=r"a\.safetensors has the digest sha256:\w+, but sha256:0+ was expected"):
        sohes.load(address)
    assert not list(cache.rglob("*.safetensors"))


def test_a_card_of_another_model_is_refused_and_asked_for_again(quick, tiny_model: Path) -> None:
    address = put(quick, tiny_model, "a.safetensors")
    card = json.loads((quick.folder / "a.json").read_text())
    for wrong in (card | {"digest": "sha256:0"}, {}, []):
        (quick.folder / "a.json").write_text(json.dumps(wrong))
        with pytest.raises(SohesError, match=r"is for weights with the digest sha256:0|is damaged"):
            sohes.load(address)
    (quick.folder / "a.json").write_text(json.dumps(card))
    assert same(sohes.load(address), sohes.load(tiny_model))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("a.safetensors", r"a\.safetensors needs the digest .*: write .*a\.safetensors#sha256=.*sha256sum"),
        ("a.safetensors#sha256=123", "needs the digest"),
        ("a.safetensors#md5=" + "0" * 64, "needs the digest"),
        ("a.zip#sha256=" + "0" * 64, r"a\.zip is no model: name a \.safetensors or \.onnx file"),
        ("a%00.onnx#sha256=" + "0" * 64, "is no model"),
        ("absent.onnx#sha256=" + "0" * 64, r"absent\.onnx was refused \(HTTP status 404\)"),
    ],
)
def test_an_address_that_cannot_be_taken_is_one_sentence(quick, end: str, words: str) -> None:
    with pytest.raises(SohesError, match=words):
        sohes.load(f"{quick.url}/{end}")


def test_a_dead_server_is_named_without_passwords(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://me:hush@127.0.0.1:1/a.onnx?sig=hush#sha256=" + "0" * 64
    with pytest.raises(SohesError, match=r"http://127\.0\.0\.1/a\.onnx: no connection .*3 times") as told:
        sohes.load(address)
    assert "hush" not in str(told.value)


def test_paths_stay_paths(tmp_path: Path) -> None:
    for name in ("models/correct.safetensors", "hf/x", "https.onnx"):
        assert named_model(name, tmp_path) == Path(name)
