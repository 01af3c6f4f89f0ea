"""Manifests describe a payload, notice any change to it, and have the same bytes for the same facts."""

from pathlib import Path

import pytest

from prismrec.artifacts.atomic import sha256_file
from prismrec.artifacts.manifest import (
    damage,
    describe,
    read_manifest,
    sha256_parameters,
    write_manifest,
)

FACTS = {"dataset": "codes", "workspace": "demo", "stage": "codebook"}


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    payload = tmp_path / "version" / "codes"
    (payload / "deep").mkdir(parents=True)
    (payload / "one").write_text("1")
    (payload / "deep" / "two").write_text("2")
    return payload


def test_a_payload_fits_its_manifest(payload: Path) -> None:
    manifest = describe(payload, **FACTS, ancestors={"item_map": "m"})
    assert manifest.files.keys() == {"codes/one", "codes/deep/two"}
    assert manifest.files["codes/one"] == sha256_file(payload / "one")
    assert damage(manifest, payload) is None


def test_a_changed_a_missing_and_a_strange_file_are_named(payload: Path) -> None:
    manifest = describe(payload, **FACTS)
    (payload / "three").write_text("3")
    assert damage(manifest, payload) == "it holds a file that was not written with it: codes/three"
    (payload / "three").unlink()
    (payload / "one").write_text("7")
    assert "codes/one was changed" in (damage(manifest, payload) or "")
    (payload / "one").unlink()
    assert damage(manifest, payload) == "its file codes/one is missing"


def test_manifests_are_read_back_with_the_same_bytes(payload: Path) -> None:
    manifest = describe(payload, **FACTS, ancestors={"b": "2", "a": "1"}, previous={"previous_c": "3"})
    write_manifest(manifest, payload.parent)
    first = (payload.parent / "manifest.json").read_bytes()
    again = read_manifest(payload.parent)
    assert again == manifest
    write_manifest(again, payload.parent)
    assert (payload.parent / "manifest.json").read_bytes() == first


def test_what_is_no_manifest_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"dataset": 3')
    assert read_manifest(tmp_path) is None


def test_parameters_hash_by_value_not_by_order() -> None:
    assert sha256_parameters({"a": 1, "b": [2]}) == sha256_parameters({"b": [2], "a": 1})
    assert sha256_parameters({"a": 1}) != sha256_parameters({"a": 2})
