"""An nnU-Net results folder, made by nnunetv2's own commands on phantoms: what a clinic has, in seconds or minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume

# What `train(small=True)` has made, so that not every test has to train.
TRAINED = Path(__file__).parent / "data" / "nnunet_phantom"
SHAPE, SPACING_MM = (24, 48, 48), (4.0, 4.5, 4.5)
DATASET = "Dataset501_Phantom"
# As a clinic names them; the last is nothing that the catalogue knows.
LABELS = {"background": 0, "parotid_left": 1, "parotid_right": 2, "Brainstem": 3, "implant": 4}
# nnunetv2 looks for a trainer in all of its modules, and those of one transformer need a torchvision that was built for
# this very torch, which need not be there.
WITHOUT_PRIMUS = """
import sys, types
primus = types.ModuleType("dynamic_network_architectures.architectures.primus")
vars(primus).update(dict.fromkeys(["Primus", *(f"PrimusV2{size}" for size in "SBML")], object))
sys.modules[primus.__name__] = primus
"""
# Its trainers make 250 steps in an epoch.
FEW_STEPS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
made = nnUNetTrainer.__init__
def make(self, *arguments, **named):
    made(self, *arguments, **named)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 110, 2
make.__signature__ = __import__("inspect").signature(made)
nnUNetTrainer.__init__ = make
"""
HU = {1: 260, 2: 130, 3: 420, 4: 800}


def phantom(seed: int) -> tuple[Volume, NDArray[np.uint8]]:
    """Make a trunk of soft tissue with four balls, whose places, sizes and HU differ a little from seed to seed."""
    rng = np.random.default_rng(seed)
    grid = Grid.regular(SHAPE, SPACING_MM, (-106.0, -106.0, -46.0))
    z, y, x = (axis * step for axis, step in zip(np.indices(SHAPE), SPACING_MM, strict=True))
    trunk = ((x - 106) / 80) ** 2 + ((y - 106) / 95) ** 2 <= 1
    labels = np.zeros(SHAPE, dtype=np.uint8)
    # Patient coordinates (LPS): x grows to the left.
    places = {1: (146, 100, 50, 16), 2: (66, 100, 50, 16), 3: (106, 126, 50, 19), 4: (106, 60, 26, 11)}
    for label, (cx, cy, cz, radius) in places.items():
        ox, oy, oz, grown = rng.uniform(-5, 5, 4)
        ball = (x - cx - ox) ** 2 + (y - cy - oy) ** 2 + (z - cz - oz) ** 2 <= (radius + grown / 3) ** 2
        labels[ball & trunk] = label
    hu = np.where(trunk, 30, -1000) + rng.normal(0, 12, SHAPE) * trunk
    for label, value in HU.items():
        hu[labels == label] += value + rng.uniform(-15, 15)
    return Volume(grid, np.rint(hu).astype(np.int16)), labels


def write_nifti(array: NDArray[np.generic], grid: Grid, path: Path) -> Path:
    """Write an array on a grid along LPS as SimpleITK writes what it read from DICOM."""
    import SimpleITK as sitk  # noqa: N813 (as everybody calls it)

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(step) for step in grid.spacing_mm[::-1]])
    image.SetOrigin([float(mm) for mm in grid.slice_origins_mm[0]])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@dataclass(frozen=True)
class NnunetHome:
    """The three folders of nnU-Net, and its commands."""

    root: Path

    def __call__(self, entry: str, *arguments: str, before: str = "") -> None:
        """Run one of nnU-Net's commands as a process of its own; ``entry`` is module:function."""
        module, function = entry.split(":")
        folders = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        workers = "0" if "run_training" in module else "1"  # the planner needs one
        quiet = {"nnUNet_n_proc_DA": workers, "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
        call = f"from {module} import {function}; sys.argv[1:] = {list(arguments)!r}; {function}()"
        code = f"{WITHOUT_PRIMUS}{before}\n{call}"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **folders, **quiet}, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{entry} {arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}")

    def make_dataset(self, cases: int) -> Path:
        """Write the phantoms as a raw data set of nnU-Net's."""
        folder = self.root / "raw" / DATASET
        for seed in range(cases):
            volume, labels = phantom(seed)
            write_nifti(volume.hu, volume.grid, folder / "imagesTr" / f"case_{seed:03d}_0000.nii.gz")
            write_nifti(labels, volume.grid, folder / "labelsTr" / f"case_{seed:03d}.nii.gz")
        said = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": cases, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(said))
        return folder

    def train(self, small: bool, cases: int = 5, folds: tuple[str, ...] = ("0",)) -> Path:
        """Plan, preprocess and train; returns the results folder.

        Parameters
        ----------
        small
            A network of some thousand weights and one epoch, in place of the planned one and five.
        """
        self.make_dataset(cases)
        entry = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
        self(f"{entry}:extract_fingerprint_entry", "-d", "501", "-np", "1")
        self(f"{entry}:plan_experiment_entry", "-d", "501")
        plans = self.root / "preprocessed" / DATASET / "nnUNetPlans.json"
        if small:
            shrink(plans)
        self(f"{entry}:preprocess_entry", "-d", "501", "-c", "3d_fullres", "-np", "1")
        trainer = "nnUNetTrainer_1epoch" if small else "nnUNetTrainer_5epochs"
        run, few = "nnunetv2.run.run_training:run_training_entry", FEW_STEPS if small else ""
        for fold in folds:
            self(run, "501", "3d_fullres", fold, "-tr", trainer, "-device", "cpu", before=few)
        return self.root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"


def shrink(plans: Path) -> None:
    """Plan a network that learns the phantoms in seconds."""
    said = json.loads(plans.read_text())
    for configuration in said["configurations"].values():
        if "architecture" in configuration and len(configuration.get("patch_size", ())) == 3:
            configuration["patch_size"], configuration["batch_size"] = [48, 24, 48], 2
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs |= {
                "n_stages": 3,  # of two, nnU-Net weighs the only output with 0 / 0
                "features_per_stage": [6, 10, 12],
                "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
            }
    plans.write_text(json.dumps(said))


# As the weights of TotalSegmentator's tasks are planned: by an nnU-Net of 2023, whose plans say the network otherwise.
OLD_PLAN = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [16, 32, 32],
    "median_image_size_in_voxels": [24.0, 48.0, 48.0],
    "spacing": [4.0, 4.5, 4.5],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "n_conv_per_stage_encoder": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "num_pool_per_axis": [1, 1, 1],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "unet_max_num_features": 320,
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "batch_dice": False,
}
GLANDS = {
    "background": 0, "eye_left": 1, "eye_right": 2, "parotid_gland_left": 3, "parotid_gland_right": 4, "nasopharynx": 5,
    "soft_palate": 6,
}  # fmt: skip


def write_results(root: Path, labels: dict[str, int] = GLANDS, **of_plan: Any) -> Path:
    """Write a results folder with TotalSegmentator's layout and random weights; ``of_plan`` replaces what it plans."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    folder = root / "Dataset775_head_glands_cavities" / "nnUNetTrainer_DASegOrd0_NoMirroring__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    intensities = {
        "0": {"mean": 30.0, "median": 25.0, "std": 250.0, "percentile_00_5": -950.0, "percentile_99_5": 900.0}
    }
    plans = {
        "dataset_name": "Dataset775_head_glands_cavities",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": {**OLD_PLAN, **of_plan}},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": intensities,
    }
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 779, "file_ending": ".nii.gz"}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.manual_seed(11)
    network = PlainConvUNet(
        1, 2, [4, 8], torch.nn.Conv3d, 3, [1, 2], [1, 1], len(labels), [1], conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cuda"), "plans": plans},
        "trainer_name": "nnUNetTrainer_DASegOrd0_NoMirroring",
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def train_on(results: Path, cases: int = 5, steps: int = 400) -> None:
    """Train the first fold's network on without augmentation, so that the little one finds the organs in a minute."""
    import torch
    from torch.nn.functional import cross_entropy

    from contourd.model.nnunet_bundle import nnunetv2, quiet

    path = results / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    parts, plans = nnunetv2(), json.loads((results / "plans.json").read_text())
    planned = plans["configurations"]["3d_fullres"]
    known, forward = plans["foreground_intensity_properties_per_channel"]["0"], plans["transpose_forward"]
    with quiet():
        network = parts.network(
            planned["architecture"]["network_class_name"], planned["architecture"]["arch_kwargs"],
            planned["architecture"]["_kw_requires_import"], 1, len(LABELS), deep_supervision=False,
        )  # fmt: skip
    network.load_state_dict(checkpoint["network_weights"])
    torch.manual_seed(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    weights = torch.tensor([0.2, 2.0, 1.0, 1.0, 1.0])
    network.train()
    for step in range(steps):
        volume, labels = phantom(step % cases)
        hu = np.clip(volume.hu, known["percentile_00_5"], known["percentile_99_5"])
        image = ((hu - known["mean"]) / known["std"]).astype(np.float32).transpose(forward)
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / steps) ** 0.9
        found = network(torch.from_numpy(image.copy())[None, None])
        loss = cross_entropy(found, torch.from_numpy(labels.astype(np.int64).transpose(forward).copy())[None], weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            print(step, loss.item(), flush=True)
    checkpoint["network_weights"] = network.state_dict()
    torch.save({**checkpoint, "optimizer_state": None}, path)
