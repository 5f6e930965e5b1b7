"""What comes from elsewhere may be broken or evil: it is told in one line, nothing is written outside, nothing runs."""

import io
import json
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import pickles
from registry.dlpk import digests, pack, unpack, verify
from registry.emd import Emd
from registry.errors import DlpkError, EmdError, PackageError
from registry.properties import properties
from tests.conftest import SHARED
from tests.registry.conftest import DOCUMENT, FUNCTION, make_model

Zipped = Callable[..., Path]
NASTY: list[Any] = [
    *(None, True, -1, 0, 2**70, 1e308, "", "x" * 5000, "\ud800", "\x1b[31m", "[bold]", "../../x", "/etc/passwd", "\0"),
    *([], {}, [[]], [None], {"": {}}, [{"Value": 1}], ["Red", 0], "e.g. x", "[Functions]x.py", "dächer.pth"),
]

NAMES = ["../x", "roofs.pth", "b.emd", "/x", "a/b.emd", "ü.txt", "con", "a" * 300, "x/", "ROOFS.PTH"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('pathlib').Path('/tmp/dlpk-was-here').touch()",)


def torch_file(content: object, name: str = "archive/data.pkl") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, pickle.dumps(content, 2))
    return file.getvalue()


EVIL = {
    "torch": torch_file({"a": Evil()}),
    "a pickle": pickle.dumps(Evil()),
    "in the second pickle": pickle.dumps(1) + pickle.dumps(OrderedDict(a=Evil())),
    "protocol 0": pickle.dumps(Evil(), 0),
    "hidden among others": torch_file([OrderedDict(), {"x": (1, [Evil()])}], "x/y/other.pkl"),
    "cut short": pickle.dumps(Evil())[:-1],
    "before an archive": pickle.dumps(Evil()) + torch_file({}),
    "in capitals": torch_file({"a": Evil()}, "archive/DATA.PKL"),
}


@pytest.mark.parametrize("content", EVIL.values(), ids=EVIL.keys())
def test_weights_with_code_in_them_are_refused_and_do_not_run(tmp_path: Path, content: bytes) -> None:
    dlpk = pack(make_model(tmp_path / "m", weights=content), tmp_path / "roofs.dlpk")
    with pytest.raises(PackageError, match=r"roofs\.pth would run code when it is loaded, got '\w+\.eval'"):
        verify(dlpk)
    assert not Path("/tmp/dlpk-was-here").exists()


def test_a_pickle_too_large_to_be_looked_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST", 1000)
    (tmp_path / "m.pth").write_bytes(torch_file(["x" * 1000, Evil()]))
    with pytest.raises(PackageError, match=r"m\.pth: holds a pickle too large to be looked through"):
        pickles.suspicious(tmp_path / "m.pth")


@pytest.mark.parametrize("content", [b"weights", b"", b"class x:\n  pass\n", pickle.dumps(OrderedDict(a=[1.0]))])
def test_weights_without_code_pass(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    assert set() == pickles.suspicious(tmp_path / "m.pth")


def test_a_state_dict_of_torch_passes_old_and_new(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    for new in (True, False):
        torch.save(network.state_dict(), tmp_path / "m.pth", _use_new_zipfile_serialization=new)
        assert set() == pickles.suspicious(tmp_path / "m.pth")
    torch.save(network, tmp_path / "m.pth")
    assert "torch.nn.modules.conv.Conv2d" in pickles.suspicious(tmp_path / "m.pth")


def test_json_of_endless_depth_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.emd").write_text("[" * 200_000)
    with pytest.raises(EmdError, match="no valid JSON"):
        Emd.read(tmp_path / "m.emd")


def test_a_function_without_its_methods_is_told(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model.path / "ClassifyPixels.py").write_text("class ClassifyPixels:\n    def initialize(self): ...\n")
    missing, workers = model.emd.problems(model.path)
    assert "in ClassifyPixels.py, getParameterInfo, getConfiguration is missing; put the" in missing
    assert workers.startswith(
        "InferenceFunction: expected updatePixels or vectorize in ClassifyPixels.py, got neither;"
    )
    (model.path / "ClassifyPixels.py").write_text("class :")
    [told] = model.emd.problems(model.path)
    assert told.startswith("InferenceFunction: expected Python source in ClassifyPixels.py, got SyntaxError; put the")


# -- Esri's page -------------------------------------------------------------------------------------------------------
def page_examples() -> list[str]:
    """The two definitions as they are printed, with lost lines and braces."""
    page = SHARED / "docs" / "deep-learning-models-in-arcgis.txt"
    if not page.is_file():
        pytest.skip("../shared/docs is not there")
    lines = page.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().startswith('"Framework"')]
    ends = [next(j for j in range(i, len(lines)) if lines[j] and not lines[j][0].isspace()) for i in starts]
    return ["\n".join(lines[i:j]) for i, j in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("braces", [False, True])
def test_the_damaged_examples_of_the_page_are_told_with_their_place(number: int, braces: bool) -> None:
    text = page_examples()[number]
    with pytest.raises(EmdError, match=r"is no valid JSON .*line \d+.*; repair or re-export the file") as caught:
        Emd.parse("{" + text + "}" if braces else text)
    assert "\n" not in str(caught.value)


TREES = {
    "Framework": "TensorFlow",
    "ModelConfiguration": "ObjectDetectionAPI",
    "ModelFile": ".\\trees.pb",
    "ModelType": "ObjectionDetection",
    "ImageHeight": 850,
    "ImageWidth": 850,
    "ExtractBands": [0, 1, 2],
    "Classes": [{"Value": 0, "Name": "Tree", "Color": [0, 255, 0]}],
}
BANDS = [
    *(("Red", 1, 60419, 7669.720049855654, 1512.7546387966217), ("Green", 1, 50452, 8771.24981951, 1429.10635895)),
    *(("Blue", 1, 47305, 9306.04758977, 1429.38004994), ("NearInfrared", 1, 60185, 17881.49918456, 5550.40552771)),
]
RIVERS = {
    "Framework": "PyTorch",
    "ModelConfiguration": "FasterRCNN",
    "ModelFile": "rivers.pth",
    "InferenceFunction": "[Functions]System\\DeepLearning\\ArcGISLearn\\ArcGISObjectDetector.py",
    "ModelType": "ObjectDetection",
    "ImageHeight": 448,
    "ImageWidth": 448,
    "ExtractBands": [0, 1, 2, 3],
    "DataRange": [0.1, 1.0],
    "ModelPadding": 64,
    "BatchSize": 8,
    "PerProcessGPUMemoryFraction": 0.8,
    "MetaDataMode": "PASCAL_VOC_rectangles",
    "ImageSpaceUsed": "MAP_SPACE",
    "Classes": [{"Value": 1, "Name": "River", "Color": [0, 255, 0]}],
    "InputRastersProps": {"RasterCount": 1, "SensorName": "Landsat 8", "BandNames": [row[0] for row in BANDS]},
    "AllTilesStats": [dict(zip(("BandName", "Min", "Max", "Mean", "StdDev"), row, strict=True)) for row in BANDS],
}


@pytest.mark.parametrize("document", [TREES, RIVERS], ids=["trees", "rivers"])
def test_the_examples_of_the_page_made_whole_again_break_no_rule(document: dict[str, Any]) -> None:
    assert [] == Emd(document).problems()


def test_the_second_example_is_shown_with_sensor_and_bands(tmp_path: Path) -> None:
    told = properties(Emd(RIVERS).write(tmp_path / "rivers.emd"))
    assert ("Landsat 8", ["Red", "Green", "Blue", "NearInfrared"]) == (told["sensor"], told["bands"])
    assert 7669.720049855654 == Emd(RIVERS).band_statistics[0].mean


# -- mutations ---------------------------------------------------------------------------------------------------------
def mutated(dice: random.Random, good: bytes) -> bytes:
    """A package with something wrong with it: in its bytes, its members or its definition."""
    kind = dice.randrange(5)
    if kind == 0:
        return _bytes(dice, good)
    if kind == 4:
        return _container(dice, good)
    document = json.loads(json.dumps(DOCUMENT))
    members: list[tuple[str, bytes]] = [("ClassifyPixels.py", FUNCTION.encode()), ("roofs.pth", b"weights")]
    if kind == 1:
        for _ in range(dice.randrange(1, 4)):
            _document(dice, document)
    elif kind == 2:
        name = dice.choice(
            ["../x", "roofs.pth", "b.emd", "/x", "a/b.emd", "ü.txt", "con", "a" * 300, "x/", "ROOFS.PTH"]
        )
        members.append((name, dice.choice([b"", b"x", dice.randbytes(50)])))
    else:
        members[dice.randrange(2)] = (members[0][0], dice.choice(list(EVIL.values())))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(document)
        archive.writestr("roofs.emd", _bytes(dice, text.encode()) if kind == 1 and dice.random() < 0.2 else text)
        for member, content in members:
            info = zipfile.ZipInfo(member)
            if kind == 2 and dice.random() < 0.2:
                info.create_system, info.external_attr = 3, dice.choice([0o120777, 0o020666, 0o040755]) << 16
            archive.writestr(info, content)
    return file.getvalue()


def _container(dice: random.Random, good: bytes) -> bytes:
    """No ZIP, a folder around the model, several definitions, a bomb, many members, a package in a package."""
    match dice.randrange(6):
        case 0:
            return b"7z\xbc\xaf\x27\x1c" + dice.randbytes(dice.randrange(200))
        case 1:
            members = {f"roofs/{name}": b"{}" for name in ("roofs.emd", "roofs.pth")}
        case 2:
            members = {name: json.dumps(DOCUMENT).encode() for name in ("roofs.emd", "ROOFS.EMD", "b.emd")}
        case 3:
            members = {"roofs.emd": b"{" + b" " * dice.randrange(20 * 2**20, 30 * 2**20) + b"}"}
        case 4:
            members = {
                "roofs.emd": json.dumps(DOCUMENT).encode(),
                **{f"a/{i}": b"" for i in range(dice.randrange(300))},
            }
        case _:
            members = {"roofs.dlpk": good, "x/" * dice.randrange(1, 60) + "roofs.emd": b"{}"}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _bytes(dice: random.Random, good: bytes) -> bytes:
    broken = bytearray(good)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(broken))
        match dice.randrange(4):
            case 0:
                broken[at] = dice.randrange(256)
            case 1:
                del broken[at : at + dice.randrange(1, 40)]
            case 2:
                broken[at:at] = dice.randbytes(dice.randrange(1, 8))
            case _:
                broken[at : at + 4] = struct.pack("<I", dice.choice([0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF]))
        broken = broken or bytearray(b"P")
    return bytes(broken)


def _document(dice: random.Random, document: dict[str, Any]) -> None:
    key = dice.choice([*document, "Tags", "Summary", "accuracy", "AllTilesStats", "BandNames", "NormalizationStats"])
    if isinstance(document.get(key), list) and document[key] and dice.random() < 0.5:
        document[key][dice.randrange(len(document[key]))] = dice.choice(NASTY)
    elif isinstance(document.get(key), dict) and document[key] and dice.random() < 0.5:
        document[key][dice.choice(list(document[key]))] = dice.choice(NASTY)
    elif dice.random() < 0.2:
        document.pop(key, None)
    else:
        document[key] = dice.choice(NASTY)


def attack(tmp_path: Path, count: int, seed: int) -> int:
    """How often a look at one of the mutations was refused; whatever else happens is a failure.

    tests/bench/bench_hostile.py does it 10,000 times.
    """
    good = pack(make_model(tmp_path / "model"), tmp_path / "roofs.dlpk").read_bytes()
    home, refused = tmp_path / "a" / "b", 0
    home.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for number in range(count):
        (home / "roofs.dlpk").write_bytes(mutated(random.Random(seed + number), good))
        for look in (properties, digests, verify, lambda path: unpack(path, home / "out")):
            said = _said(look, home / "roofs.dlpk")
            assert said is None or ("DlpkError" in said and "\n" not in said), f"mutation {seed + number}: {said}"
            refused += said is not None
        (home / "roofs.emd").write_bytes(_bytes(random.Random(seed + number), json.dumps(DOCUMENT).encode()))
        said = _said(properties, home / "roofs.emd")
        assert said is None or ("DlpkError" in said and "\n" not in said), f"definition {seed + number}: {said}"
        (home / "roofs.emd").unlink()
        shutil.rmtree(home / "out", ignore_errors=True)
        (home / "roofs.dlpk").unlink()
        assert before == sorted(tmp_path.rglob("*")), f"mutation {seed + number} wrote outside"
    assert not Path("/tmp/dlpk-was-here").exists()
    return refused


def _said(look: Callable[[Path], object], path: Path) -> str | None:
    try:
        json.dumps(look(path), default=str)
    except Exception as error:
        return f"{'DlpkError' if isinstance(error, DlpkError) else ''} {type(error).__name__}: {error}"
    return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_mutated_packages_are_told_in_one_line_and_harm_nothing(tmp_path: Path) -> None:
    assert 150 < attack(tmp_path, 300, seed=0)


def test_looking_at_a_package_imports_nothing_of_it(dlpk: Path) -> None:
    verify(dlpk)
    assert "ClassifyPixels" not in sys.modules
