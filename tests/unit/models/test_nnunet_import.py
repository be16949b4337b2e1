"""A results folder of nnU-Net is read with suspicion: what may call, fill the memory or name two things is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from contourd.cli import app
from contourd.errors import ImportRefused, ModelError
from contourd.model.bundle import load_bundle
from contourd.model.nnunet_plans import NnunetModel
from contourd.models.nnunet_import import ImportOrder, import_nnunet
from contourd.models.organ_map import LabelReading, read_organ_map, shipped_maps
from contourd.reasons.catalogue import HoldReason
from tests.nnunet import GLANDS, write_results

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
MAP = "totalsegmentator-head-glands-cavities"


def unread(label: str) -> LabelReading:  # noqa: ARG001
    return LabelReading("", "none")


@pytest.fixture
def folder(tmp_path):
    return write_results(tmp_path)


def refused(folder, tmp_path, organs=MAP, **more) -> str:
    output = tmp_path / "bundle"
    with pytest.raises(ImportRefused) as caught:
        import_nnunet(ImportOrder(folder, "glands", output, organs, **more), unread)
    assert not (output / "model.json").exists()
    return str(caught.value)


def change(folder, file, path, value):
    said = json.loads((folder / file).read_text())
    inner = said
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / file).write_text(json.dumps(said))


def change_checkpoint(folder, **fields):
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), **fields}, path)


class Caller:
    """A pickle of it writes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_calls_is_refused_by_name_and_calls_nothing(folder, tmp_path):
    trap = tmp_path / "called"
    change_checkpoint(folder, logging=Caller(trap))
    assert "it names what is no weight: posix.system" in refused(folder, tmp_path)
    assert not trap.exists()


def test_a_file_that_is_no_checkpoint_is_refused(folder, tmp_path):
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"\x80\x02cos\nsystem\nq\x00.")
    assert "it cannot be read as weights" in refused(folder, tmp_path)


def test_the_process_that_reads_has_no_network():
    code = (
        "import socket; from contourd.model.checkpoint_reader import shut_off_network as off\n"
        "how = off()\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except OSError as error: print(how, type(error).__name__, error.errno)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[-2:] in (["OSError", "101"], ["PermissionError", "1"])  # network unreachable, not permitted


def test_without_namespaces_the_kernel_refuses_sockets():
    code = (
        "import ctypes, socket; from contourd.model.checkpoint_reader import _refuse_sockets\n"
        "assert _refuse_sockets(ctypes.CDLL(None, use_errno=True))\n"
        "open('/dev/null').close()\n"
        "try: socket.socket()\n"
        "except PermissionError: print('refused')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "refused\n"


@pytest.fixture(scope="module")
def glands(tmp_path_factory):
    """Return ``model`` of the model.json of a folder that was imported."""
    root = tmp_path_factory.mktemp("glands")
    made = import_nnunet(ImportOrder(write_results(root), "glands", root / "bundle", MAP), unread)
    return json.loads((made.bundle.folder / "model.json").read_text())["model"]


PLANNED = ("plans", "configurations", "3d_fullres")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ((*PLANNED, "patch_size"), [4096, 4096, 4096], "patch_size: two or three sides of 1 to 1024"),
        ((*PLANNED, "patch_size"), [1024, 1024, 1024], "1024 x 1024 x 1024 voxels are more than"),
        ((*PLANNED, "architecture", "arch_kwargs", "features_per_stage"), [10**6, 8], "features_per_stage"),
        ((*PLANNED, "architecture", "arch_kwargs", "n_stages"), 99, "n_stages"),
        ((*PLANNED, "architecture", "arch_kwargs", "conv_op"), "os.system", "conv_op: 'os.system' is not known"),
        ((*PLANNED, "architecture", "arch_kwargs", "block"), "os.system", "block: 'os.system' is not known"),
        ((*PLANNED, "architecture", "network_class_name"), "os.system", "'os.system' is no U-Net of nnunetv2's"),
        ((*PLANNED, "architecture", "_kw_requires_import"), ["block"], "'block' is not known"),
        ((*PLANNED, "preprocessor_name"), "Mine", "'Mine' is not nnunetv2's own"),
        ((*PLANNED, "normalization_schemes"), ["Mine"], "'Mine' is not known"),
        ((*PLANNED, "resampling_fn_data"), "../../mine", "'../../mine' is not known"),
        ((*PLANNED, "resampling_fn_data_kwargs"), {"order": [3]}, "holds what nnunetv2 does not write"),
        ((*PLANNED, "previous_stage"), "3d_lowres", "a stage of a cascade"),
        ((*PLANNED, "spacing"), [0.0, 1.0, 1.0], "0.1 to 50 mm"),
        ((*PLANNED, "spacing"), None, "of another form than nnunetv2 writes"),
        (("plans", "transpose_backward"), [1, 0, 2], "no permutation and its inverse"),
        (("plans", "label_manager"), "Mine", "'Mine' is not nnunetv2's LabelManager"),
        (("dataset", "channel_names"), {"0": "CT", "1": "MR"}, "2 channels; contourd has one CT"),
        (("dataset", "labels", "eye_right"), 1, "eye_left, eye_right have the same number 1"),
        (("dataset", "labels", "eye_right"), [1, 2], "eye_right: region-based training is not taken"),
        (("dataset", "labels", "eye_right"), 9, "the numbers do not run from 0 without a gap"),
        (("trainer",), "nnUNetTrainerPrimusS", "trainer 'nnUNetTrainerPrimusS'"),
        (("labels",), [1, 1, 3, 4, 6], "one number for each structure, and none twice"),
        (("labels",), [0, 2, 3, 4, 6], "0 is none of the dataset's"),
        (("folds",), ["../0"], "each is a number, or all"),
        (("mirroring_axes",), [0, 3], "of 0, 1 and 2"),
        (("axes",), "XYZ", "axes"),
    ],
)
def test_what_nnunetv2_does_not_write_or_contourd_does_not_take_is_refused(glands, path, value, text):
    changed = json.loads(json.dumps(glands))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError) as caught:
        NnunetModel.model_validate(changed)
    assert text in str(caught.value)
    NnunetModel.model_validate(glands)


@pytest.mark.parametrize(("key", "value"), [("UNet_class_name", "os.system"), ("inherits_from", "3d_fullres")])
def test_plans_of_an_old_form_are_refused_as_well(folder, tmp_path, key, value):
    change(folder, "plans.json", ["configurations", "3d_fullres", key], value)
    assert "a value is missing, or of another form" in refused(folder, tmp_path)


def test_a_patch_that_no_memory_holds_is_refused_with_the_figure(folder, tmp_path, monkeypatch):
    memory = type("Memory", (), {"total": 2**20})
    monkeypatch.setattr("contourd.models.nnunet_import.psutil.virtual_memory", lambda: memory)
    assert "GiB, and this machine has 0.0 GiB" in refused(folder, tmp_path)


def test_a_label_that_stands_there_twice_is_refused(folder, tmp_path):
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"eye_right": 2', '"eye_left": 2'))
    assert "'eye_left' stands there twice" in refused(folder, tmp_path)


def test_two_labels_of_one_organ_are_refused(folder, tmp_path):
    organs = tmp_path / "organs.toml"
    lines = [f'{label} = ""' for label in GLANDS if label not in ("background", "eye_left", "eye_right")]
    organs.write_text("\n".join(["[organs]", 'eye_left = "Eye_L"', 'eye_right = "EYE_L"', *lines]))
    assert "eye_left, eye_right are the same organ" in refused(folder, tmp_path, str(organs))
    organs.write_text("\n".join(["[organs]", 'eye_left = "Eye L"', 'eyes = "Eye_R"', *lines]))
    text = refused(folder, tmp_path, str(organs))
    assert "eye_left = 'Eye L': a name of 1 to 16" in text
    assert "eye_right: write" in text
    assert "eyes: no label of the model" in text


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint.rename(tmp_path / "elsewhere.pth")
    checkpoint.symlink_to(tmp_path / "elsewhere.pth")
    assert "is a link out of the folder" in refused(folder, tmp_path)
    checkpoint.unlink()
    os.mkfifo(checkpoint)
    assert "is no file" in refused(folder, tmp_path)
    assert "holds no fold_../../etc/" in refused(folder, tmp_path, folds=("../../etc",))


def test_a_name_that_is_a_path_is_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="name"):
        import_nnunet(ImportOrder(folder, "../glands", tmp_path / "out", MAP), unread)


def test_other_weights_than_the_plans_say_are_refused(folder, tmp_path):
    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    del weights["decoder.seg_layers.0.bias"]
    change_checkpoint(folder, network_weights=weights)
    assert "1 weights are not those of the plans, as decoder.seg_layers.0.bias" in refused(folder, tmp_path)


def test_a_folder_above_the_results_is_refused_with_what_is_in_it(folder, tmp_path):
    assert f"give one of {folder.name} in it" in refused(folder.parent, tmp_path)
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    assert "give --checkpoint best" in refused(folder, tmp_path)


def test_labels_that_nobody_knows_are_written_down_for_a_person(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "write them into organs.toml" in refused(folder, tmp_path, "")
    text = (tmp_path / "organs.toml").read_text()
    assert '"eye_left" = ""  # none' in text
    (tmp_path / "organs.toml").write_text(text.replace('"eye_left" = ""', '"eye_left" = "Eye_L"'))
    made = import_nnunet(ImportOrder(folder, "glands", tmp_path / "out", "organs.toml"), unread)
    assert made.bundle.config.model.structures == ("Eye_L",)


def test_the_command_says_what_each_label_is_taken_for(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["models", "import", str(folder), "--name", "glands"])
    assert told.exit_code == 0, told.output
    lines = {line.split()[0]: line.split()[1:] for line in told.stdout.splitlines() if line}
    assert lines["eye_left"] == ["Eye_L", "alias"]
    assert lines["nasopharynx"][:2] == ["not", "contoured"]
    assert "pair: Parotid_L, Parotid_R" in told.stdout
    bundle = load_bundle(tmp_path / "glands")
    assert bundle.config.kind == "nnunet"
    assert {"Eye_L", "Parotid_R"} <= set(bundle.config.model.structures)


def test_damaged_weights_of_a_bundle_are_refused(folder, tmp_path):
    made = import_nnunet(ImportOrder(folder, "glands", tmp_path / "out", MAP), unread)
    said = json.loads((tmp_path / "out" / "model.json").read_text())
    said["model"]["plans"]["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    (tmp_path / "out" / "model.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="no U-Net") as caught:
        load_bundle(made.bundle.folder)
    assert caught.value.reason.code is HoldReason.MODEL_FILE_INVALID


@pytest.mark.parametrize("name", shipped_maps())
def test_a_map_that_ships_can_be_read(name):
    import tomllib

    from contourd.model.structures import etc_folder

    labels = list(tomllib.loads((etc_folder() / "organ-maps" / f"{name}.toml").read_text())["organs"])
    found = read_organ_map(name, labels)
    assert found.axes == "SAR"
    assert found.organs
