"""A results folder of nnU-Net v2 becomes a bundle: read with suspicion, once, and never again.

Of the folder dataset.json, plans.json and one checkpoint of each fold are taken, and nothing else is opened.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError

from contourd.errors import ImportRefused
from contourd.model.bundle import save_bundle
from contourd.model.bundle_config import ModelBundle
from contourd.model.checkpoint_reader import MOST_S
from contourd.model.library import CARD_FILE
from contourd.model.nnunet_bundle import NNUNET, build_nnunet, nnunetv2, quiet, stored_names
from contourd.model.nnunet_memory import Memory
from contourd.model.nnunet_plans import NnunetModel, resolved, unfit
from contourd.model.structures import Laterality, side_of, without_side
from contourd.models.organ_map import OrganMap, ReadName, read_by_catalogue, read_organ_map, write_organ_map

DATASET_FILE = "dataset.json"
PLANS_FILE = "plans.json"
ORGANS_FILE = "organs.toml"
CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
LARGEST_JSON_BYTES = 4 * 2**20
LARGEST_CHECKPOINT_BYTES = 8 * 2**30
LARGEST_ANSWER_BYTES = 2**16
FOLD = re.compile(r"fold_(all|\d{1,2})")
# Of which the memory is told: a planning CT of the head and neck.
USUAL_SHAPE, USUAL_SPACING_MM = (200, 512, 512), (2.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """What is to be imported.

    Attributes
    ----------
    organs
        An organs.toml, or one that ships by its name; empty: as the catalogue reads the labels.
    folds
        As nnU-Net calls them; empty: all numbered ones that are there, else ``all``.
    checkpoint
        ``final`` or ``best``.
    """

    folder: Path
    name: str
    output: Path
    organs: str = ""
    folds: tuple[str, ...] = ()
    checkpoint: str = "final"
    version: str = "1"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made.

    Attributes
    ----------
    network
        How the process that read the checkpoints was kept from the network; empty: it was not.
    """

    bundle: ModelBundle
    organs: OrganMap
    memory: Memory
    network: str


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What a fold's checkpoint says of itself, and where its weights lie now."""

    fold: str
    weights: Path
    trainer: str
    configuration: str
    mirroring_axes: tuple[int, ...]
    network: str


def import_nnunet(order: ImportOrder, read_name: ReadName) -> Imported:
    """Make a bundle of a results folder.

    Parameters
    ----------
    read_name
        What the catalogue takes a label for.

    Raises
    ------
    ImportRefused
        The folder is not one of nnU-Net v2's, holds what contourd does not take, or would need more memory than the
        machine has; with the remedy.
    ModelError
        nnunetv2 is not installed, or the weights do not fit the plans.
    """
    _refuse_other_folders(order)
    dataset, plans = (_json(_own(order.folder, name, LARGEST_JSON_BYTES)) for name in (DATASET_FILE, PLANS_FILE))
    with tempfile.TemporaryDirectory(prefix="contourd-import-") as scratch:
        folds = [_read(order, fold, Path(scratch)) for fold in _folds(order)]
        first = folds[0]
        for other in folds[1:]:
            if (other.trainer, other.configuration) != (first.trainer, first.configuration):
                raise ImportRefused(f"fold_{other.fold} is of another trainer or configuration than fold_{first.fold}")
        planned = _planned(plans, dataset, first)
        organs = _organs(order, dataset, read_name)
        model = _model(dataset, planned, folds, organs)
        memory = _bounded(model)
        weights = _weights(model, folds)
        fields = {
            "name": order.name,
            "version": order.version,
            "kind": NNUNET,
            "model": model.model_dump(mode="json"),
            "pairs": _pairs(model.structures),
            "provenance": {
                "imported": "an nnU-Net v2 results folder",
                "trainer": first.trainer,
                "configuration": first.configuration,
                "checkpoint": order.checkpoint,
                "dataset": str(plans.get("dataset_name", ""))[:128],
            },
        }
        try:
            bundle = save_bundle(order.output, fields, weights)
        except OSError as error:
            raise ImportRefused(f"{order.output} cannot be written: {error.strerror}") from error
    bundle.verify_weights()
    write_organ_map(order.output / ORGANS_FILE, organs)
    (order.output / CARD_FILE).write_text(_card(bundle, organs, first), encoding="utf-8")
    return Imported(bundle, organs, memory, first.network)


def _refuse_other_folders(order: ImportOrder) -> None:
    folder = order.folder
    if not folder.is_dir():
        raise ImportRefused(f"{folder} is no folder")
    if (folder / PLANS_FILE).is_file():
        return
    below = sorted(path.parent.name for path in folder.glob(f"*/{PLANS_FILE}"))
    told = f"; give one of {', '.join(below[:8])} in it" if below else ""
    raise ImportRefused(f"{folder} holds no {PLANS_FILE}: it is no results folder of nnU-Net v2{told}")


def _own(folder: Path, name: str, most_bytes: int) -> Path:
    """Return a file of the folder; what lies elsewhere, is no file or is too large is none of it."""
    path = folder / name
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise ImportRefused(f"{path} is a link out of the folder; put the file itself there")
        if not path.is_file():
            raise ImportRefused(f"{path} is no file")
        size = path.stat().st_size
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}") from error
    if size > most_bytes:
        raise ImportRefused(f"{path} has {size} bytes, more than the {most_bytes} that are taken")
    return path


def _json(path: Path) -> dict[str, Any]:
    """Read an object in which no name stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ImportRefused(f"{path}: {twice[0]!r} stands there twice; what it stands for is not clear")
        return dict(pairs)

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path} is no JSON") from error
    if not isinstance(content, dict):
        raise ImportRefused(f"{path} holds no object")
    return content


def _folds(order: ImportOrder) -> Sequence[str]:
    file = CHECKPOINTS[order.checkpoint]
    matches = [match for path in sorted(order.folder.iterdir()) if (match := FOLD.fullmatch(path.name))]
    found = [match[1] for match in matches if (order.folder / match[0] / file).exists()]
    numbered = [fold for fold in found if fold != "all"]
    if not found:
        raise ImportRefused(
            f"{order.folder} holds no fold_*/{file}; where training did not come to its end, give --checkpoint best"
        )
    if missing := [fold for fold in order.folds if fold not in found]:
        raise ImportRefused(f"{order.folder} holds no fold_{missing[0]}/{file}; there are: {', '.join(found)}")
    return tuple(dict.fromkeys(order.folds)) or numbered or found


def _read(order: ImportOrder, fold: str, scratch: Path) -> _Checkpoint:
    """Have a checkpoint read by a process of its own."""
    path = _own(order.folder, f"fold_{fold}/{CHECKPOINTS[order.checkpoint]}", LARGEST_CHECKPOINT_BYTES)
    output = scratch / f"{fold}.safetensors"
    command = [sys.executable, "-P", "-m", "contourd.model.checkpoint_reader", str(path.resolve()), str(output)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=MOST_S,
            check=False,
        )
        answer = json.loads(done.stdout[:LARGEST_ANSWER_BYTES])
    except subprocess.TimeoutExpired as error:
        raise ImportRefused(f"{path} was not read within {MOST_S} s") from error
    except ValueError as error:
        raise ImportRefused(f"{path}: the process that reads it ended with {done.returncode}") from error
    if "refused" in answer:
        named = ", ".join(answer["names"])
        raise ImportRefused(f"{path}: {answer['refused']}" + (f": {named}" if named else ""))
    axes = tuple(answer["mirroring_axes"])
    return _Checkpoint(fold, output, answer["trainer"], answer["configuration"], axes, answer["network"])


def _planned(plans: Mapping[str, Any], dataset: Mapping[str, Any], first: _Checkpoint) -> dict[str, Any]:
    """Return the plans with the one configuration, in the form of today's nnunetv2, or refuse what they hold."""
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or first.configuration not in configurations:
        raise ImportRefused(f"{PLANS_FILE}: the configuration {first.configuration!r} of the checkpoint is not there")
    try:
        own = resolved(configurations, first.configuration)
        with quiet():
            own = nnunetv2().Configuration(own).configuration
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ImportRefused(f"{PLANS_FILE}: {first.configuration}: a value is missing, or of another form") from error
    kept = {key: value for key, value in plans.items() if key != "configurations"}
    kept["configurations"] = {first.configuration: own}
    if problems := list(unfit(dataset, kept, first.configuration, first.trainer)):
        raise ImportRefused("; ".join(problems))
    return kept


def _organs(order: ImportOrder, dataset: Mapping[str, Any], read_name: ReadName) -> OrganMap:
    labels = [name for name, number in dataset["labels"].items() if number and name != "ignore"]
    found = read_organ_map(order.organs, labels) if order.organs else read_by_catalogue(labels, read_name)
    if not found.organs:
        write_organ_map(Path(ORGANS_FILE), found)
        raise ImportRefused(
            f"no label is surely an organ of the catalogue; write them into {ORGANS_FILE}, which lies here "
            "now, and import again with --organs"
        )
    return found


def _model(
    dataset: Mapping[str, Any], plans: Mapping[str, Any], folds: Sequence[_Checkpoint], organs: OrganMap
) -> NnunetModel:
    kept = ("channel_names", "labels", "file_ending")
    try:
        return NnunetModel(
            structures=tuple(organs.organs.values()),
            labels=tuple(dataset["labels"][label] for label in organs.organs),
            axes=organs.axes,
            configuration=folds[0].configuration,
            trainer=folds[0].trainer,
            folds=tuple(one.fold for one in folds),
            mirroring_axes=folds[0].mirroring_axes,
            dataset={key: dataset[key] for key in kept if key in dataset},
            plans=plans,
        )
    except ValidationError as error:
        raise ImportRefused("; ".join(one["msg"] for one in error.errors(include_input=False)[:5])) from error


def _bounded(model: NnunetModel) -> Memory:
    """Refuse what this machine can never hold, with the figure."""
    usual = Memory.of(model, USUAL_SHAPE, USUAL_SPACING_MM, 0)
    smallest = Memory.of(model, (1, 1, 1), USUAL_SPACING_MM, 0).host
    total = psutil.virtual_memory().total
    if smallest > total:
        raise ImportRefused(
            f"one patch of {model.planned['patch_size']} takes about {smallest / 2**30:.1f} GiB, and this machine has "
            f"{total / 2**30:.1f} GiB"
        )
    return usual


def _weights(model: NnunetModel, folds: Sequence[_Checkpoint]) -> dict[str, Any]:
    """Return each fold's weights under FOLD/NAME, each tensor once."""
    names, weights = stored_names(build_nnunet(model)), {}
    for one in folds:
        try:
            found = safetensors.torch.load_file(one.weights)
        except (OSError, SafetensorError) as error:
            raise ImportRefused(f"fold_{one.fold}: its weights were not written") from error
        if other := sorted(found.keys() ^ names.keys()):
            raise ImportRefused(f"fold_{one.fold}: {len(other)} weights are not those of the plans, as {other[0]}")
        if bad := [name for name, value in found.items() if not bool(value.isfinite().all())]:
            raise ImportRefused(f"fold_{one.fold}: {bad[0]} holds what is no number; its training broke down")
        if two := [name for name, first in names.items() if not found[name].equal(found[first])]:
            raise ImportRefused(f"fold_{one.fold}: {two[0]} and {names[two[0]]} are to be the same weights")
        for first in dict.fromkeys(names.values()):
            weights[f"{one.fold}/{first}"] = found[first].float()
    return weights


def _pairs(structures: Sequence[str]) -> list[tuple[str, str]]:
    """Pair what is the same organ on either side, by the names."""
    lefts = {without_side(name): name for name in structures if side_of(name) is Laterality.LEFT}
    rights = {without_side(name): name for name in structures if side_of(name) is Laterality.RIGHT}
    return [(left, rights[base]) for base, left in lefts.items() if base in rights]


def _card(bundle: ModelBundle, organs: OrganMap, first: _Checkpoint) -> str:
    left_out = [label for label, one in organs.labels.items() if not one.organ]
    return f"""# {bundle.name} {bundle.version}

An nnU-Net v2 ({first.trainer}, {first.configuration}), imported. Who trained it on what, and what its licence asks, is
not in its files: write it here.

Organs: {", ".join(organs.organs.values())}.
{f"Not contoured: {', '.join(left_out)}." if left_out else ""}
"""
