"""Lists of parts: what an image's layers come to, who is in it, under which licences."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import layout
from images.merged import opened
from images.parts import Part, licences_in, locked, spdx
from images.sbom import document, licences_page, parts_of_image, parts_of_wheel, wheel_document
from tests.support.images import put_image

STATUS = """\
Package: libthing1
Status: install ok installed
Architecture: amd64
Version: 1:2.0-1+b1
Description: a thing
 with Version: 9 in its words

Package: gone
Status: deinstall ok config-files
Version: 3

"""
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: Expat

Files: debian/*
License: GPL-2+ or BSD-3-clause
"""
METADATA = "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.5\nLicense-Expression: MIT\n\nwords"
LOCK = f"some-thing==1.5 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n"


def layer(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def an_image(folder: Path, *layers: bytes) -> Path:
    layout.publish(folder, put_image(folder, *layers), reference="a/b:1", inputs="inputs")
    return folder


SITE = "usr/local/lib/python3.13/dist-packages"
BASE = layer({
    "var/lib/dpkg/status": STATUS,
    "usr/share/doc/libthing1/copyright": DEP5,
    "usr/lib/python3/dist-packages/debians-1.dist-info/METADATA": METADATA,
    f"{SITE}/some_thing-1.4.dist-info/METADATA": METADATA.replace("1.5", "1.4"),
    "srv/data/a": "a",
})  # fmt: skip
ABOVE = layer({
    f"{SITE}/.wh.some_thing-1.4.dist-info": "",
    f"{SITE}/some_thing-1.5.dist-info/METADATA": METADATA,
    "srv/data/.wh..wh..opq": "",
    "srv/data/b": "b",
})  # fmt: skip


def test_layers_are_laid_over_each_other_with_what_they_take_away(tmp_path: Path) -> None:
    with opened(an_image(tmp_path, BASE, ABOVE)) as root:
        assert sorted(root) == [
            "srv/data/b",
            "usr/lib/python3/dist-packages/debians-1.dist-info/METADATA",
            f"{SITE}/some_thing-1.5.dist-info/METADATA",
            "usr/share/doc/libthing1/copyright",
            "var/lib/dpkg/status",
        ]
        assert root["srv/data/b"].read() == b"b"


def test_an_images_parts_are_debians_packages_and_those_of_the_lock(tmp_path: Path) -> None:
    with opened(an_image(tmp_path, BASE, ABOVE)) as root:
        parts = parts_of_image(root, LOCK)
    assert parts == [
        Part("deb", "libthing1", "1:2.0-1+b1", ("BSD-3-Clause", "GPL-2.0-or-later", "MIT")),
        Part("pypi", "some-thing", "1.5", ("MIT",), ("a" * 64, "b" * 64)),
    ]


@pytest.mark.parametrize(
    ("said", "name"),
    [("GPL-2", "GPL-2.0-only"), ("LGPL-2.1+", "LGPL-2.1-or-later"), ("Expat", "MIT"), ("X", "X")],
)
def test_licences_have_the_names_of_spdx_where_it_knows_them(said: str, name: str) -> None:
    assert spdx(said) == name


def test_a_copyright_file_for_people_names_no_licence() -> None:
    assert licences_in("This package may be copied.\nLicense: see above\n") == ()


SUBJECT = Component(name="b", version="1", type=ComponentType.CONTAINER, bom_ref="b")


def test_a_document_is_valid_and_the_same_for_the_same_parts() -> None:
    parts = [
        Part("deb", "a", "1", ("BSD-3-Clause", "GPL-2+ with exception")),
        Part("deb", "b", "1", ("GPL-2.0-or-later OR MIT",)),
        Part("pypi", "c", "2", (), ("a" * 64,)),
    ]
    told = document(SUBJECT, parts, time_s=0)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(told) is None
    assert document(SUBJECT, parts, time_s=0) == told
    other = json.loads(document(SUBJECT, parts[:2], time_s=0))
    assert other["serialNumber"] != json.loads(told)["serialNumber"]
    assert {one["purl"] for one in json.loads(told)["components"]} == {
        "pkg:deb/debian/a@1",
        "pkg:deb/debian/b@1",
        "pkg:pypi/c@2",
    }


def test_the_wheels_document_has_what_its_extras_need() -> None:
    told, parts = wheel_document(time_s=0)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(told) is None
    assert {"pydantic", "kopf", "httpx2", "altair"} <= {part.name for part in parts}
    assert parts == parts_of_wheel(["\n".join(_pins(parts))])


def _pins(parts: list[Part]) -> list[str]:
    hashes = [" ".join(f"--hash=sha256:{one}" for one in part.hashes) for part in parts]
    return [f"{part.name}=={part.version} {said}" for part, said in zip(parts, hashes, strict=True)]


def test_a_lock_is_read_with_all_hashes_of_a_pin() -> None:
    assert locked(LOCK) == {
        "some-thing": Part("pypi", "some-thing", "1.5", (), ("a" * 64, "b" * 64))
    }


def test_the_page_of_licences_names_each_part_once() -> None:
    part = Part("deb", "a", "1", ("MIT",))
    page = licences_page([part, part, Part("pypi", "b", "2")])
    assert page.count("| deb: a | 1 | MIT |") == 1
    assert "| pypi: b | 2 | see its copyright file |" in page
