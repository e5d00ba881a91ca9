# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle is made the same each time, judged whole, and imported whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from small_bundles import KEY, MIB, PUBLIC, bytes_of, plan, sign, signed, trees

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    parse_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    verify_release_signature,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle import create as creating
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.create import create
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.layout import describe_bundle
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.signature import (
    check_public_key,
    check_signature,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.site import (
    Imported,
    Need,
    Order,
    import_bundle,
    serial_in_use,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.verify import examine

PARTS = ["apt-bookworm.tar.000", "wheels-none.tar.000", "collection.tar.000", "docs.tar.000"]
SMALL = ["sbom.cdx.json", "bundle_verify.pyz", "pieces.meta4", "manifest.json", "manifest.json.sig"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed(tmp_path_factory.mktemp("made"))[0]


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "medium"))


def order(bundle: Path, tmp_path: Path, **changes: object) -> Order:
    return replace(Order(str(bundle), PUBLIC, str(tmp_path / "site")), **changes)  # type: ignore[arg-type]


def imported(what: Order, write: bool = True) -> Imported:
    return import_bundle(what, lambda _stage, _description: None, write)


def test_a_whole_bundle_has_no_fault(made: Path) -> None:
    found = examine(str(made), PUBLIC)
    assert found.faults == []
    assert found.description is not None
    assert found.description.serial == 2026112800
    assert found.description.contents["apt-bookworm"].parts == (
        "apt-bookworm.tar.000",
        "apt-bookworm.tar.001",
        "apt-bookworm.tar.002",
    )


def test_two_runs_over_the_same_inputs_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    create(plan(tmp_path))
    other = bytes_of(tmp_path / "bundle")
    assert other == {k: v for k, v in bytes_of(made).items() if k != "manifest.json.sig"}


def test_a_second_run_changes_nothing_and_keeps_serial_and_signature(tmp_path: Path) -> None:
    directory, first = signed(tmp_path)
    before = bytes_of(directory)
    again = create(plan(tmp_path, today=20261231))
    assert first.changed
    assert again.changed == []
    assert again.serial == first.serial
    assert bytes_of(directory) == before


def test_an_interrupted_run_is_resumed_and_whole_parts_are_kept(tmp_path: Path) -> None:
    directory, _made = signed(tmp_path)
    wanted = bytes_of(directory)
    whole = os.stat(directory / "apt-bookworm.tar.000")
    with open(directory / "apt-bookworm.tar.001", "r+b") as stream:
        stream.truncate(1000)
    (directory / "apt-bookworm.tar.002").unlink()
    for name in ("manifest.json", "manifest.json.sig", "pieces.meta4"):
        (directory / name).unlink()
    (directory / "manifest.json.part").write_bytes(b"{")
    assert set(create(plan(tmp_path)).changed) >= {"apt-bookworm.tar.001", "apt-bookworm.tar.002"}
    sign(directory)
    found = bytes_of(directory)
    assert found.keys() == wanted.keys()
    assert {name for name in wanted if found[name] != wanted[name]} <= {"manifest.json.sig"}
    kept = os.stat(directory / "apt-bookworm.tar.000")
    assert (kept.st_ino, kept.st_mtime_ns) == (whole.st_ino, whole.st_mtime_ns)


def test_a_change_raises_the_serial_and_removes_what_is_no_longer_true(tmp_path: Path) -> None:
    directory, first = signed(tmp_path)
    sources = trees(tmp_path / "trees")
    del sources["docs"]
    second = create(plan(tmp_path, sources=sources))
    assert second.serial == first.serial + 1
    assert not (directory / "docs.tar.000").exists()
    assert not (directory / "manifest.json.sig").exists()
    assert create(plan(tmp_path, sources=sources, serial=7)).serial == 7


def test_check_mode_says_what_would_be_written_and_writes_nothing(tmp_path: Path) -> None:
    assert "docs.tar.000" in create(plan(tmp_path), write=False).changed
    assert not (tmp_path / "bundle").exists()
    directory, _made = signed(tmp_path)
    (tmp_path / "trees/docs/b.txt").write_text("another")
    before = bytes_of(directory)
    assert set(create(replace_docs(tmp_path), write=False).changed) == {
        *("docs.tar.000", "manifest.json", "manifest.json.sig", "pieces.meta4")
    }
    assert bytes_of(directory) == before


def replace_docs(tmp_path: Path) -> creating.Plan:
    made = plan(tmp_path)
    (tmp_path / "trees/docs/b.txt").write_text("another")
    return made


def test_nothing_is_written_beside_foreign_files_or_to_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "free_bytes", lambda _path: MIB)
    with pytest.raises(ArtifactError, match=r"has room for 1048576 bytes, and the bundle takes"):
        create(plan(tmp_path))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/holiday.jpg").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"has holiday\.jpg, which is of no bundle"):
        create(plan(tmp_path))
    assert os.listdir(tmp_path / "bundle") == ["holiday.jpg"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [*PARTS, *SMALL])
def test_one_bit_in_any_file_is_found_and_named(name: str, bundle: Path, tmp_path: Path) -> None:
    flip(bundle / name)
    outcome = imported(order(bundle, tmp_path))
    named = {finding.where for finding in outcome.faults}
    assert named & {name, f"{name}.sig"}
    assert named <= {name, "manifest.json.sig"}
    assert all(finding.remedy for finding in outcome.faults)
    assert not (tmp_path / "site").exists()


def test_of_a_large_part_the_piece_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hashing", "metalink"):
        module = sys.modules[parse_manifest.__module__.replace(".manifest", f".{name}")]
        monkeypatch.setattr(module, "PIECE_SIZE", 100_000)
    monkeypatch.setattr(sys.modules[examine.__module__], "PIECE_SIZE", 100_000)
    monkeypatch.setattr(creating.PieceHasher.__init__, "__defaults__", (100_000,))
    directory = signed(tmp_path)[0]
    assert examine(str(directory), PUBLIC).faults == []
    flip(directory / "wheels-none.tar.000")
    assert [(fault.where, fault.what[:28]) for fault in examine(str(directory), PUBLIC).faults] == [
        ("wheels-none.tar.000", "its bytes from 500000 on dif")
    ]


def test_every_fault_is_said_at_once(bundle: Path, tmp_path: Path) -> None:
    (bundle / "wheels-none.tar.000").unlink()
    (bundle / "wheels-none.tar.007").write_bytes(b"more")
    part = bundle / "collection.tar.000"
    part.write_bytes(part.read_bytes()[:-512])
    flip(bundle / "apt-bookworm.tar.001")
    (bundle / "docs.tar.000").unlink()
    (bundle / "docs.tar.000").symlink_to(bundle / "sbom.cdx.json")
    outcome = imported(
        order(
            bundle,
            tmp_path,
            needs=[
                Need("st-1", "apt", "trixie", ("nginx",)),
                Need("gw-1", "apt", "bookworm", ("nginx", "pkcs11-provider")),
                Need("in-1", "wheels", "tensorrt_rtx", ("3.11",)),
                Need("in-2", "wheels", "none", ("3.13",)),
                Need("in-3", "wheels", "none", ("3.11",), "aarch64"),
            ],
            free=lambda _path: 1000,
        )
    )
    said = {finding.where: finding.what for finding in outcome.faults}
    assert said.pop("apt-bookworm.tar.001").startswith("its bytes from 0 on differ from those")
    assert said == {
        "collection.tar.000": "it has 9728 bytes of 10240",
        "docs.tar.000": "it is no regular file",
        "wheels-none.tar.000": "it is missing",
        "wheels-none.tar.007": "it is no part of this bundle",
        "st-1": "the bundle has no packages for trixie (it has bookworm)",
        "gw-1": "the bundle's packages for bookworm have no pkcs11-provider",
        "in-1": "the bundle has no wheels for tensorrt_rtx (it has none)",
        "in-2": "the bundle's wheels for none have no 3.13",
        "in-3": "it is aarch64, and the bundle is for x86_64",
        str(tmp_path / "site"): "it has 1000 bytes free, and the bundle takes 70255653",
    }
    assert not (tmp_path / "site").exists()


def test_what_is_imported_is_what_was_packed_and_is_there_at_once(
    bundle: Path, tmp_path: Path
) -> None:
    trees(tmp_path / "again")
    seen = []
    site = tmp_path / "site"

    def finish(stage: str, _description: object) -> None:
        seen.append((Path(stage).name, os.listdir(site)))

    outcome = import_bundle(order(bundle, tmp_path), finish)
    assert outcome.changed
    assert seen == [(".2026112800.part", [".2026112800.part"])]
    assert sorted(os.listdir(site)) == ["2026112800", "current"]
    for name in ("apt-bookworm", "wheels-none", "collection", "docs"):
        assert bytes_of(site / "current" / name) == bytes_of(tmp_path / "again" / name)
    again = import_bundle(order(bundle, tmp_path), finish)
    assert (again.changed, again.faults, len(seen)) == (False, [], 1)


def test_check_mode_imports_nothing(bundle: Path, tmp_path: Path) -> None:
    assert imported(order(bundle, tmp_path), write=False).changed
    assert not (tmp_path / "site").exists()


def test_a_failed_import_leaves_what_was_in_use(bundle: Path, tmp_path: Path) -> None:
    def fail(_stage: str, _description: object) -> None:
        raise ArtifactError("no gpg")

    with pytest.raises(ArtifactError, match="no gpg"):
        import_bundle(order(bundle, tmp_path), fail)
    assert os.listdir(tmp_path / "site") == []
    (tmp_path / "site/.2026112800.part").mkdir()  # of a run that was killed
    assert imported(order(bundle, tmp_path)).changed
    assert serial_in_use(str(tmp_path / "site")) == 2026112800


def test_an_older_bundle_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    old = Path(shutil.copytree(signed(tmp_path, serial=5)[0], tmp_path / "old"))
    new = Path(shutil.copytree(signed(tmp_path, serial=6)[0], tmp_path / "new"))
    other = Path(shutil.copytree(signed(tmp_path, serial=6, epoch=1)[0], tmp_path / "other"))
    assert imported(order(new, tmp_path)).changed
    refused = imported(order(old, tmp_path))
    assert [finding.what for finding in refused.faults] == [
        "its serial is 5, and the site uses 6: it is older"
    ]
    assert "offline_bundle_allow_older" in refused.faults[0].remedy
    assert not refused.changed
    assert not (tmp_path / "site/5").exists()
    twin = imported(order(other, tmp_path))
    assert [finding.what for finding in twin.faults] == [
        "bundle 6 was imported before with other bytes"
    ]
    assert imported(order(old, tmp_path, allow_older=True)).changed
    assert serial_in_use(str(tmp_path / "site")) == 5
    assert imported(order(new, tmp_path)).changed
    assert serial_in_use(str(tmp_path / "site")) == 6


def test_a_site_keeps_the_bundle_before(tmp_path: Path) -> None:
    for serial in (5, 6, 7):
        assert imported(order(signed(tmp_path, serial=serial)[0], tmp_path)).changed
    assert sorted(os.listdir(tmp_path / "site")) == ["6", "7", "current"]


def hostile(directory: Path, entry: tarfile.TarInfo) -> None:
    """An archive that no program of ours makes, signed all the same."""
    with tarfile.open(directory / "b.txt", "w") as archive:
        archive.addfile(entry)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("../../etc/passwd", tarfile.REGTYPE, r"contains the component '\.\.'"),
        ("/etc/passwd", tarfile.REGTYPE, "is absolute"),
        ("link", tarfile.SYMTYPE, "is not a regular file"),
        ("device", tarfile.CHRTYPE, "is not a regular file"),
    ],
)
def test_an_archive_writes_only_files_and_only_into_its_directory(
    name: str, kind: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = kind

    def hostile(_directory: str, writer: creating.PartWriter) -> tuple[int, int]:
        writer.write(entry.tobuf() + bytes(10240 - 512))
        writer.finish()
        return 0, 1

    monkeypatch.setattr(creating, "pack", hostile)
    directory = signed(tmp_path)[0]
    with pytest.raises(ArtifactError, match=says):
        imported(order(directory, tmp_path))
    assert os.listdir(tmp_path / "site") == []


def test_an_archive_that_ends_early_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = creating.pack

    class Cut:
        def __init__(self, writer: creating.PartWriter) -> None:
            self.writer, self.left = writer, 700

        def write(self, data: bytes) -> int:
            self.left -= self.writer.write(data[: self.left])
            return len(data)

        def finish(self) -> None:
            self.writer.finish()

    def cut(directory: str, writer: creating.PartWriter) -> tuple[int, int]:
        return packed(directory, Cut(writer))  # type: ignore[arg-type]

    monkeypatch.setattr(creating, "pack", cut)
    directory = signed(tmp_path)[0]
    with pytest.raises(ArtifactError, match="no archive"):
        imported(order(directory, tmp_path))
    assert os.listdir(tmp_path / "site") == []


def test_a_part_that_changes_between_the_two_readings_is_not_used(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[import_bundle.__module__]
    judge = examine

    def changed(directory: str, key: bytes) -> object:
        found = judge(directory, key)
        flip(bundle / "wheels-none.tar.000")
        return found

    monkeypatch.setattr(module, "examine", changed)
    with pytest.raises(ArtifactError, match=r"wheels-none\.tar\.000 was changed after"):
        imported(order(bundle, tmp_path))
    assert os.listdir(tmp_path / "site") == []


Change = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.pop("serial"), "must have exactly"),
        (lambda value: value.update(serial=-1), "serial is -1"),
        (lambda value: value.update(serial=True), "serial is True"),
        (lambda value: value.update(contents=[]), "must have exactly"),
        (lambda value: value["contents"].pop("docs"), "name other parts"),
        (lambda value: value["contents"]["docs"].update(kind="films"), "kind 'films'"),
        (lambda value: value["contents"]["docs"].update(parts=["docs.tar.001"]), "from 000"),
        (lambda value: value["contents"]["docs"].update(provides="x"), "is no list"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    change: Change, says: str, made: Path
) -> None:
    manifest = parse_manifest((made / "manifest.json").read_bytes())
    change(dict(manifest.parameters) and manifest.parameters)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=says):
        describe_bundle(manifest)


def test_the_verifier_runs_alone_and_says_the_same(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PUBLIC)
    command = ["/usr/bin/python3", "-ISB", str(bundle / "bundle_verify.pyz"), str(bundle)]
    command.append(str(tmp_path / "key.pem"))
    good = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (good.returncode, good.stderr) == (0, "")
    assert "bundle 2026112800 is whole and signed by this key: 9 files" in good.stdout
    flip(bundle / "wheels-none.tar.000")
    (bundle / "docs.tar.000").unlink()
    bad = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert bad.returncode == 1
    wanted = [str(finding) for finding in examine(str(bundle), PUBLIC).faults]
    assert bad.stdout.splitlines()[:-1] == wanted
    usage = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert usage.returncode == 2


def test_openssl_and_cryptography_agree_on_signatures(made: Path) -> None:
    data = (made / "manifest.json").read_bytes()
    signature = (made / "manifest.json.sig").read_bytes()
    other = ec.derive_private_key(8, ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    cases = [(PUBLIC, data, signature), (PUBLIC, data + b" ", signature), (pem, data, signature)]
    cases += [(PUBLIC, data, b"no base64!"), (PUBLIC, data, b""), (PUBLIC, data, b"AAAA")]
    outcomes = []
    for case in cases:
        found = []
        for check in (check_signature, verify_release_signature):
            try:
                if check is check_signature:
                    check_signature(*case)
                else:
                    verify_release_signature(*case)
                found.append(True)
            except ArtifactError:
                found.append(False)
        outcomes.append(found)
    assert outcomes == [[True, True], *[[False, False]] * 5]


def test_only_a_key_of_the_one_curve_is_taken() -> None:
    check_public_key(PUBLIC)
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    long = rsa.generate_private_key(65537, 2048).public_key()
    for key in (p384, long):
        with pytest.raises(ArtifactError, match="not an EC P-256 key"):
            check_public_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for text in (b"", b"-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----\n", PUBLIC[:-40]):
        with pytest.raises(ArtifactError, match="no PEM public key"):
            check_public_key(text)
    assert KEY.curve.name == "secp256r1"
