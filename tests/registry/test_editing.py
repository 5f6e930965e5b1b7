import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.cli import registry_commands
from registry.differences import differences
from registry.dlpk import ModelFolder, digests, inspect, pack, verify
from registry.editing import Changes, add_files, edit, remove_files, renamed
from registry.emd import Emd
from registry.errors import DlpkError, EmdError, NotFound, OptionsError, PackageError
from registry.properties import properties
from tests.registry.conftest import make_package

Zipped = Callable[..., Path]


def run(*words: object) -> Result:
    command = next(command for command in registry_commands if command.name == words[0])
    return CliRunner().invoke(command, [str(word) for word in words[1:]])


def test_description_summary_and_tags_are_written_and_the_rest_stays(dlpk: Path) -> None:
    before = digests(dlpk)
    edit(dlpk, Changes("Roofs of a town", "roofs", ["roof", "town"]))
    told = properties(dlpk)
    assert ("Roofs of a town", "roofs", ["roof", "town"]) == (told["description"], told["summary"], told["tags"])
    assert {"roofs.emd"} == {name for name, digest in digests(dlpk).items() if before[name] != digest}
    assert "roofs" == verify(dlpk).name


def test_an_edited_package_is_what_packing_the_edited_folder_gives(model: ModelFolder, dlpk: Path) -> None:
    edit(dlpk, Changes(summary="roofs"))
    model.emd.replace(Summary="roofs").write(model.emd_path)
    assert pack(model, model.path.parent / "roofs.dlpk").read_bytes() == dlpk.read_bytes()


def test_a_class_gets_another_name_and_colour_wherever_it_is_named(model: ModelFolder, tmp_path: Path) -> None:
    rows = json.dumps({"roof": {"f1": 0.5}, "pond": {"f1": 0.25}})
    model.emd.replace(per_class_metrics=rows).write(model.emd_path)
    edit(model.emd_path, Changes(class_names={1: "Dach"}, class_colors={1: (1, 2, 3)}))
    assert [("Dach", (1, 2, 3)), ("pond", (0, 0, 255))] == [(c.name, c.color) for c in model.emd.classes]
    assert {"Dach": {"f1": 0.5}, "pond": {"f1": 0.25}} == model.emd.scores["per_class_metrics"]


def test_an_empty_text_and_null_take_a_key_out(model: ModelFolder) -> None:
    model.emd.replace(Summary="x", Threshold=0.5).write(model.emd_path)
    edit(model.emd_path, Changes(summary="", arguments={"Threshold": None}))
    assert {"Summary", "Threshold"}.isdisjoint(model.emd.document)


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        (Changes(arguments={"DataRange": [1, 0]}), EmdError, "DataRange: expected .* nothing was changed"),
        (Changes(class_names={1: "pond"}), EmdError, "expected every Name once"),
        (Changes(class_names={9: "x"}), OptionsError, r"expected a class Value of \[1, 2\], got 9"),
        (Changes(tags=["x"] * 129), OptionsError, "at most 128 tags, got 129"),
    ],
)
def test_a_change_that_breaks_a_rule_changes_nothing(
    dlpk: Path, changes: Changes, error: type[DlpkError], what: str
) -> None:
    before = dlpk.read_bytes()
    with pytest.raises(error, match=what):
        edit(dlpk, changes)
    assert before == dlpk.read_bytes()
    assert [dlpk.name, "roofs"] == sorted((p.name for p in dlpk.parent.iterdir()), key=len, reverse=True)


def test_what_was_wrong_before_does_not_forbid_an_edit(zipped: Zipped) -> None:
    foreign = zipped()  # holds neither its weights nor its function
    edit(foreign, Changes(summary="theirs"))
    assert "theirs" == inspect(foreign).emd.document["Summary"]


def test_an_edit_may_go_to_a_new_file(dlpk: Path, tmp_path: Path) -> None:
    before = dlpk.read_bytes()
    edit(dlpk, Changes(summary="new"), tmp_path / "new" / "roofs.dlpk")
    assert before == dlpk.read_bytes()
    assert {"Summary": [None, "new"]} == differences(dlpk, tmp_path / "new" / "roofs.dlpk")["definition"]


def test_a_new_file_is_called_like_its_definition(dlpk: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"other.dlpk: expected the file name roofs.dlpk.* as .*new/roofs.dlpk"):
        edit(dlpk, Changes(summary="new"), tmp_path / "new" / "other.dlpk")
    assert not (tmp_path / "new").exists()


def test_a_file_is_added_replaced_and_removed(dlpk: Path, tmp_path: Path) -> None:
    (tmp_path / "loss_graph.png").write_bytes(b"new picture")
    add_files(dlpk, {"docs/readme.png": tmp_path / "loss_graph.png"})
    assert 11 == inspect(dlpk).members["docs/readme.png"]
    add_files(dlpk, {"ModelCharacteristics/loss_graph.png": tmp_path / "loss_graph.png"})
    assert 11 == inspect(dlpk).members["ModelCharacteristics/loss_graph.png"]
    remove_files(dlpk, ["docs/readme.png"])
    assert "docs/readme.png" not in inspect(dlpk).members


@pytest.mark.parametrize("name", ["roofs.pth", "ClassifyPixels.py"])
def test_what_the_definition_needs_is_not_removed(dlpk: Path, name: str) -> None:
    with pytest.raises(EmdError, match=f"got '{name}', which is not there; put .*; nothing was changed"):
        remove_files(dlpk, [name])
    assert name in inspect(dlpk).members


def test_neither_a_definition_nor_a_strange_name_is_added_or_removed(dlpk: Path) -> None:
    with pytest.raises(PackageError, match="ASCII name that is no"):
        add_files(dlpk, {"other.emd": dlpk})
    with pytest.raises(PackageError, match="could leave the folder"):
        add_files(dlpk, {"../x": dlpk})
    with pytest.raises(PackageError, match="two members of one name"):
        add_files(dlpk, {"ROOFS.PTH": dlpk})
    with pytest.raises(PackageError, match="its definition to stay"):
        remove_files(dlpk, ["roofs.emd"])
    with pytest.raises(NotFound, match="no 'gone'; it holds ClassifyPixels.py"):
        remove_files(dlpk, ["gone"])


def test_a_renamed_package_is_whole(dlpk: Path, tmp_path: Path) -> None:
    assert "houses" == verify(renamed(dlpk, "houses", tmp_path / "houses.dlpk")).name


def test_what_somebody_else_packed_is_not_dropped(zipped: Zipped) -> None:
    foreign = zipped(("checkpoints/a.ckpt", b"x"), (".hidden", b"y"))
    edit(foreign, Changes(summary="theirs"))
    assert {"checkpoints/a.ckpt", ".hidden", "m.emd"} == set(inspect(foreign).members)


# -- looking -----------------------------------------------------------------------------------------------------------
def test_the_properties_stand_in_the_order_of_the_window(dlpk: Path) -> None:
    told = properties(dlpk)
    assert ["input", "framework", "model_configuration"] == [k for k in told if k not in ("name", "path")][:3]
    assert ("roofs.emd", "roofs.pth") == (told["input"]["definition"], told["input"]["model_file"])
    assert {"value": 2, "name": "pond", "color": [0, 0, 255]} == told["classes"][1]
    assert (["Red", "Green", "Blue"], [64, 64]) == (told["bands"], told["tile_size"])


def test_the_weights_are_told_by_the_name_of_the_member(zipped: Zipped) -> None:
    told = properties(zipped(("Roofs.PTH", b"x"), ("a.txt", b"y")))["input"]
    assert ("Roofs.PTH", "a.txt") == (told["model_file"], ", ".join(told["other_files"]))


def test_a_broken_definition_is_shown_with_its_problems(tmp_path: Path) -> None:
    Emd({"Classes": [{"Value": "x"}], "InputRastersProps": 3, "MinCellSize": []}).write(tmp_path / "m.emd")
    assert {"Classes[0].Value", "ModelType"} <= {
        text.split(":")[0] for text in properties(tmp_path / "m.emd")["problems"]
    }


def test_packages_differ_by_members_and_keys(tmp_path: Path) -> None:
    a, b = make_package(tmp_path / "a"), make_package(tmp_path / "b", weights=b"others")
    assert {"same": True, "members": {}, "definition": {}} == differences(a, a)
    assert {"roofs.pth": "other content"} == differences(a, b)["members"]
    edit(b, Changes(class_colors={2: (0, 0, 9)}))
    assert {"Classes[1].Color[2]": [255, 9]} == differences(a, b)["definition"]


# -- commands ----------------------------------------------------------------------------------------------------------
def test_the_commands_edit_and_tell_what_came_of_it(dlpk: Path, tmp_path: Path) -> None:
    words = ("--summary", "roofs", "--tags", "a, b", "--argument", "Threshold=0.4", "--class-color", "1=#010203")
    told = json.loads(run("edit", dlpk, *words, "--class-name", "2=lake").output)
    assert ("roofs", ["a", "b"]) == (told["summary"], told["tags"])
    assert [("roof", [1, 2, 3]), ("lake", [0, 0, 255])] == [(c["name"], c["color"]) for c in told["classes"]]
    assert 0.4 == inspect(dlpk).emd.document["Threshold"]
    (tmp_path / "note.txt").write_text("x")
    told = json.loads(run("add-file", dlpk, tmp_path / "note.txt", "--below", "docs").output)
    assert "docs/note.txt" in told["input"]["other_files"]
    assert "docs/note.txt" not in json.loads(run("remove-file", dlpk, "docs/note.txt").output)["members"]
    assert json.loads(run("diff", dlpk, dlpk).output)["same"]


@pytest.mark.parametrize("words", [("--class-name", "x=y"), ("--class-color", "1=256,0,0"), ("--argument", "nothing")])
def test_a_wrong_word_is_told_as_ours(dlpk: Path, words: tuple[str, ...]) -> None:
    assert isinstance(run("edit", dlpk, *words).exception, OptionsError)


def test_an_archive_of_arcgis_with_folder_entries_is_edited(zipped: Zipped) -> None:
    foreign = zipped(("ModelCharacteristics/", b""), ("ModelCharacteristics/a.png", b"x"))
    edit(foreign, Changes(summary="theirs"))
    assert ["ModelCharacteristics/a.png", "m.emd"] == zipfile.ZipFile(foreign).namelist()
