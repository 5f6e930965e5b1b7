import multiprocessing
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import archive
from registry.dlpk import ModelFolder, digests, inspect, open_model, pack, unpack, verify, write_archive
from registry.errors import Conflict, EmdError, NotFound, PackageError, StoreError
from registry.files import sha256
from tests.registry.conftest import make_model

Zipped = Callable[..., Path]


# -- packing -----------------------------------------------------------------------------------------------------------
def test_a_model_survives_its_package(model: ModelFolder, tmp_path: Path) -> None:
    again = unpack(pack(model, tmp_path / "roofs.dlpk"), tmp_path / "again")
    assert model.emd == again.emd
    assert {name: path.read_bytes() for name, path in model.files().items()} == {
        name: path.read_bytes() for name, path in again.files().items()
    }


def test_the_same_files_pack_to_the_same_bytes(model: ModelFolder, tmp_path: Path) -> None:
    first = pack(model, tmp_path / "a" / "roofs.dlpk")
    for path in model.files().values():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    assert first.read_bytes() == pack(model, tmp_path / "b" / "roofs.dlpk").read_bytes()


def test_what_belongs_to_the_work_stays_at_home(model: ModelFolder, tmp_path: Path) -> None:
    for name in ("checkpoints/last.ckpt", "a.ckpt", ".part", ".cache/x", "__pycache__/x.pyc", "roofs.dlpk"):
        (model.path / name).parent.mkdir(exist_ok=True)
        (model.path / name).write_text("x")
    members = [
        *("ClassifyPixels.py", "ModelCharacteristics/loss_graph.png"),
        *("ModelCharacteristics/training_validation_loss.json", "model_metrics.html", "roofs.emd", "roofs.pth"),
    ]
    assert members == list(inspect(pack(model, tmp_path / "roofs.dlpk")).members)


def test_a_package_is_named_like_its_definition(model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"expected the file name roofs\.dlpk"):
        pack(model, tmp_path / "roofs-v2.dlpk")


def test_a_definition_that_breaks_a_rule_is_not_packed(model: ModelFolder, tmp_path: Path) -> None:
    model.weights.unlink()
    with pytest.raises(EmdError, match="ModelFile"):
        pack(model, tmp_path / "roofs.dlpk")
    assert not (tmp_path / "roofs.dlpk").exists()


@pytest.mark.parametrize("name", ["dächer.txt", "a\\b.txt", "c:x.txt", "docs/other.emd", "MODEL_METRICS.html"])
def test_a_name_that_windows_or_arcgis_misread_is_not_packed(model: ModelFolder, tmp_path: Path, name: str) -> None:
    (model.path / name).parent.mkdir(exist_ok=True)
    (model.path / name).write_text("x")
    with pytest.raises(PackageError):
        pack(model, tmp_path / "roofs.dlpk")


def test_weights_that_do_not_travel_are_noticed(model: ModelFolder, tmp_path: Path) -> None:
    (model.path / "last.ckpt").write_text("x")
    model.emd.replace(ModelFile="last.ckpt").write(model.emd_path)
    with pytest.raises(PackageError, match="expected a file that travels"):
        pack(model, tmp_path / "roofs.dlpk")


def test_each_of_several_weights_must_travel(model: ModelFolder, tmp_path: Path) -> None:
    (model.path / "checkpoints").mkdir()
    for name in ("a.bin", "checkpoints/b.bin"):
        (model.path / name).write_bytes(b"x")
    model.emd.replace(ModelFile=".", ModelFiles=["a.bin", "checkpoints/b.bin"]).write(model.emd_path)
    with pytest.raises(PackageError, match="expected a file that travels"):
        pack(model, tmp_path / "roofs.dlpk")


def test_a_configuration_named_as_windows_does_travels(model: ModelFolder, tmp_path: Path) -> None:
    (model.path / "more").mkdir()
    (model.path / "more" / "a.json").write_text("{}")
    model.emd.replace(ModelConfigurationFile="more\\a.json").write(model.emd_path)
    assert "more/a.json" in inspect(pack(model, tmp_path / "roofs.dlpk")).members


def test_a_folder_without_a_definition_says_so(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"expected exactly one \.emd"):
        _ = ModelFolder(tmp_path).name


def test_a_definition_may_be_named_in_capitals(model: ModelFolder) -> None:
    model.emd_path.rename(model.path / "ROOFS.EMD")
    assert ("ROOFS", model.path / "ROOFS.EMD") == (open_model(model.path).name, ModelFolder(model.path).emd_path)


# -- looking inside ----------------------------------------------------------------------------------------------------
def test_a_package_is_told_without_unpacking_it(dlpk: Path) -> None:
    package = inspect(dlpk)
    assert ("roofs", 7, sha256(dlpk)) == (package.name, package.members["roofs.pth"], package.sha256)
    assert dlpk.stat().st_size == package.size
    assert ["roof", "pond"] == [label.name for label in package.emd.classes]


def test_every_member_has_its_digest(dlpk: Path, model: ModelFolder) -> None:
    assert {name: sha256(path) for name, path in model.files().items()} == digests(dlpk)


def test_a_renamed_package_is_verified_as_misnamed(dlpk: Path) -> None:
    assert "roofs" == verify(dlpk).name
    with pytest.raises(PackageError, match="give the file its name back"):
        verify(dlpk.rename(dlpk.with_name("roofs-v2.dlpk")))


# -- what comes from elsewhere -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "a/../../evil.py",
        "/etc/evil",
        "C:/evil.py",
        "C:evil",
        "..\\evil.py",
        "\\evil",
        "a//b",
        "./a",
        "a/. ./b",
    ],
)
def test_a_member_that_leaves_the_folder_is_refused(zipped: Zipped, tmp_path: Path, name: str) -> None:
    bad = zipped((name, b"x"))
    with pytest.raises(PackageError, match="could leave the folder"):
        unpack(bad, tmp_path / "out")
    assert [bad] == list(tmp_path.iterdir())


def test_a_link_is_refused(zipped: Zipped, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("passwords")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with pytest.raises(PackageError, match="holds a link"):
        unpack(zipped((link, b"/etc/passwd")), tmp_path / "out")


@pytest.mark.parametrize("name", ["A.PY", "a.py/b.py"])
def test_two_members_for_one_file_are_refused(zipped: Zipped, tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="two members of one name|inside a file"):
        unpack(zipped(("a.py", b"1"), (name, b"2")), tmp_path / "out")


def test_files_get_the_letters_of_the_definition(model: ModelFolder, tmp_path: Path) -> None:
    model.emd.replace(ModelFile="Weights\\Roofs.PTH", ModelFiles=["b.bin"]).write(model.emd_path)
    bad = tmp_path / "roofs.dlpk"
    members = {name.replace("roofs.pth", "weights/roofs.pth"): path for name, path in model.files().items()}
    write_archive({name.replace("Classify", "CLASSIFY"): path for name, path in members.items()}, bad)
    assert "roofs" == verify(bad).name
    again = open_model(bad, tmp_path / "models")
    assert model.path.joinpath("roofs.pth").read_bytes() == again.weights.read_bytes()
    assert {"ClassifyPixels.py", "Weights/Roofs.PTH"} < again.files().keys()
    assert not {"CLASSIFYPixels.py", "weights/roofs.pth"} & again.files().keys()


def test_the_class_of_a_function_keeps_its_letters(model: ModelFolder, tmp_path: Path) -> None:
    model.emd.replace(InferenceFunction="classifypixels.py").write(model.emd_path)
    bad = write_archive(model.files(), tmp_path / "roofs.dlpk")
    assert "roofs" == verify(bad).name
    assert "roofs.dlpk" == pack(unpack(bad, tmp_path / "again"), tmp_path / "packed" / "roofs.dlpk").name


def test_two_classes_that_differ_in_letters_alone_are_told(model: ModelFolder) -> None:
    (model.path / "ClassifyPixels.py").write_text("class classifyPixels: ...\nclass CLASSIFYPixels: ...")
    assert "got classifyPixels and CLASSIFYPixels" in model.emd.problems(model.path)[0]


@pytest.mark.parametrize("name", ["ROOFS.pth", "roofs.pth"])
def test_two_keys_of_one_file_get_one_spelling(model: ModelFolder, tmp_path: Path, name: str) -> None:
    model.emd.replace(ModelFile=name, ModelConfigurationFile="Roofs.pth").write(model.emd_path)
    again = unpack(write_archive(model.files(), tmp_path / "roofs.dlpk"), tmp_path / "again")
    assert again.weights.is_file()
    assert "ModelConfigurationFile" in str(again.emd.problems(again.path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice_is_refused(zipped: Zipped, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="two members of one name"):
        unpack(zipped(("a.py", b"1"), ("a.py", b"2")), tmp_path / "out")


def test_an_encrypted_package_is_refused(zipped: Zipped, tmp_path: Path) -> None:
    path = zipped()
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(PackageError, match="is encrypted"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("emd", "others", "what"), [("", ["a.py"], "exactly one"), ("a.emd", ["b.emd"], "exactly one")]
)
def test_none_or_several_definitions_are_refused(
    zipped: Zipped, tmp_path: Path, emd: str, others: list[str], what: str
) -> None:
    with pytest.raises(PackageError, match=what):
        unpack(zipped(*((name, b"{}") for name in others), emd=emd), tmp_path / "out")


def test_a_folder_around_the_model_is_told(zipped: Zipped) -> None:
    with pytest.raises(PackageError, match=r"it lies in a folder, got 'm'; pack the content of the folder"):
        inspect(zipped(("m/m.pth", b"x"), emd="m/m.emd"))


def test_a_7_zip_archive_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "m.dlpk").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    with pytest.raises(PackageError, match="is a 7-Zip archive; unpack it with `7z x`"):
        inspect(tmp_path / "m.dlpk")


def test_a_bomb_is_refused_before_it_goes_off(zipped: Zipped, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="would unpack to more than"):
        unpack(zipped(("m.pth", bytes(20 * 2**20))), tmp_path / "out")


def test_a_bomb_that_lies_about_its_size_is_stopped(zipped: Zipped, tmp_path: Path) -> None:
    path = zipped(("m.pth", bytes(20 * 2**20)))
    real = (20 * 2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(real, (1000).to_bytes(4, "little")))
    with pytest.raises(PackageError, match="is damaged"):
        unpack(path, tmp_path / "out")
    assert [path] == list(tmp_path.iterdir())


def test_too_many_members_are_refused(zipped: Zipped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    with pytest.raises(PackageError, match="more than 3 members"):
        inspect(zipped(*((str(i), b"") for i in range(3))))


def test_a_definition_that_is_no_json_leaves_nothing(zipped: Zipped, tmp_path: Path) -> None:
    bad = zipped(("m.emd", b"{"), emd="")
    with pytest.raises(EmdError, match="no valid JSON"):
        unpack(bad, tmp_path / "out")
    assert [bad] == list(tmp_path.iterdir())


def test_a_definition_in_letters_of_windows_is_told_as_that(zipped: Zipped) -> None:
    bad = zipped(("m.emd", '{"Classes": [{"Name": "Gebäude"}]}'.encode("cp1252")), emd="")
    with pytest.raises(EmdError, match=r"m\.emd: is no UTF-8 text; save it as UTF-8"):
        inspect(bad)


@pytest.mark.slow
def test_damage_anywhere_is_noticed_or_harmless(dlpk: Path, tmp_path: Path) -> None:
    """Every byte of the file is broken once: what unpacks is what was packed, and errors are ours, on one line."""
    whole, good = digests(dlpk), dlpk.read_bytes()
    dice = random.Random(1)
    bad = tmp_path / "bad.dlpk"
    told: list[str] = []
    for place in range(len(good)):
        broken = bytearray(good)
        broken[place] ^= dice.randrange(1, 256)
        bad.write_bytes(broken)
        try:
            found = digests(bad)
        except (PackageError, EmdError) as error:
            told.append(str(error))
        else:
            assert sorted(whole.values()) == sorted(found.values())
    assert [] == [text for text in told if "\n" in text]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_package_cut_short_is_told(dlpk: Path, tmp_path: Path, share: float) -> None:
    content = dlpk.read_bytes()
    (tmp_path / "cut.dlpk").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PackageError, match=r"is damaged or no ZIP archive .*copy or download it again"):
        unpack(tmp_path / "cut.dlpk", tmp_path / "out")


def test_a_full_disk_is_no_damage(dlpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "sync", full)
    with pytest.raises(StoreError, match=r"cannot unpack \(No space left on device\); check the disk"):
        unpack(dlpk, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_touched(dlpk: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        unpack(dlpk, tmp_path / "out")
    assert ["mine.txt"] == [path.name for path in (tmp_path / "out").iterdir()]


# -- opening -----------------------------------------------------------------------------------------------------------
def test_a_folder_an_emd_and_a_package_open_alike(model: ModelFolder, dlpk: Path) -> None:
    opened = [open_model(path) for path in (model.path, model.emd_path, dlpk)]
    assert [model.emd] * 3 == [folder.emd for folder in opened]


def test_a_package_is_unpacked_once(dlpk: Path, dlpk_home: Path) -> None:
    first, again = open_model(dlpk), open_model(dlpk)
    assert dlpk_home / "cache" / "models" / sha256(dlpk) == first.path == again.path


def test_many_processes_open_one_package(dlpk: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        opened = pool.starmap(open_model, [(dlpk, tmp_path / "cache")] * 8)
    assert 1 == len({folder.path for folder in opened})
    assert [sha256(dlpk)] == [path.name for path in (tmp_path / "cache").iterdir()]


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"x")
    with pytest.raises(PackageError, match=r"expected a model folder, an \.emd or a \.dlpk"):
        open_model(tmp_path / "m.zip")
    with pytest.raises(NotFound, match="no such model"):
        open_model(tmp_path / "gone.dlpk")


def test_importing_the_formats_is_quick() -> None:
    program = "import sys, registry.emd, registry.dlpk; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set() == {"torch", "mlflow", "boto3", "prefect", "numpy", "pydantic"} & set(done.stdout.split())


def test_large_models_of_plain_names_pack(tmp_path: Path) -> None:
    big = make_model(tmp_path / "big", weights=random.Random(1).randbytes(3 * 2**20))
    assert 3 * 2**20 == inspect(pack(big, tmp_path / "roofs.dlpk")).members["roofs.pth"]
