"""What of an nnU-Net's dataset.json and plans.json contourd takes.

Everything that nnU-Net would look up by its name, call or build from these files stands in a list here, and every
number has a bound.

Isensee et al., nnU-Net, Nature Methods 2021; the keys are those of nnunetv2's plans files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Self

from pydantic import Field, model_validator

from contourd.model.bundle_config import OrgansConfig

# Words that a trainer's name may have after nnUNetTrainer: they change how it is trained, not the network.
TRAINER = re.compile(
    r"nnUNetTrainer(?:_?(?:\d+ep(?:och)?s?|[Nn]oMirroring|onlyMirror01|DA5(?:ord0|Segord0)?|NoDA|DASegOrd0|DAOrd0|"
    r"noDummy2DDA|NoDeepSupervision|CosAnneal|warmup|probabilisticOversampling|\d{3}|noSmooth|noDataLoading|Benchmark|"
    r"(?:Vanilla)?Adan?m?(?:\d+en\d)?|DiceCELoss|CELoss|DiceLoss|DiceTopK10Loss|Topk10Loss(?:LS01)?))*"
)
NETWORK_CLASSES = {
    f"dynamic_network_architectures.architectures.{module}.{name}"
    for module in ("unet", "residual_unet")
    for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
LAYERS = {
    "conv_op": {f"torch.nn.modules.conv.Conv{n}d" for n in (2, 3)},
    "norm_op": {
        f"torch.nn.modules.{family}.{name}{n}d"
        for family, name in (("instancenorm", "InstanceNorm"), ("batchnorm", "BatchNorm"))
        for n in (2, 3)
    },
    "dropout_op": {f"torch.nn.modules.dropout.Dropout{n}d" for n in (2, 3)},
    "nonlin": {"torch.nn.LeakyReLU", "torch.nn.ReLU", "torch.nn.modules.activation.LeakyReLU",
               "torch.nn.modules.activation.ReLU"},
}  # fmt: skip
LAYER_OPTIONS = {
    "norm_op_kwargs": {"eps", "affine", "momentum"},
    "dropout_op_kwargs": {"p", "inplace"},
    "nonlin_kwargs": {"inplace", "negative_slope"},
}
SHAPE_OPTIONS = {
    "n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "stem_channels",
}  # fmt: skip
FLAGS = {"conv_bias", "nonlin_first"}
NORMALISATIONS = {"CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"}
RESAMPLINGS = {"resample_data_or_seg_to_shape", "resample_torch_fornnunet", "resample_torch_simple"}
RESAMPLING_OPTIONS = {"is_seg", "order", "order_z", "force_separate_z", "num_threads", "memefficient_seg_resampling"}
MOST_LABELS = 256
MOST_STAGES = 10
MOST_FEATURES = 2048
MOST_LAYERS = 16
MOST_KERNEL = 11
MOST_PATCH_VOXELS = 2**26


class NnunetModel(OrgansConfig):
    """``model`` in model.json of an nnU-Net.

    labels
        Of each structure, in their order: the number in nnU-Net's label map.
    axes
        Towards which side of the patient the array's axes run with which it was trained, slowest first: S or I, A or P,
        L or R. ``SPL`` is what SimpleITK makes of a DICOM series, ``SAR`` what nibabel calls canonical.
    configuration
        The one of the plans that was trained.
    trainer, folds
        What trained it; several folds are an ensemble, whose logits are averaged.
    mirroring_axes
        Of the array, over whose mirror images the logits are averaged; empty: none.
    dataset, plans
        What nnU-Net reads: its dataset.json and plans.json, of the plans the one configuration.
    """

    labels: tuple[int, ...]
    axes: str = Field(default="SPL", pattern=r"^[SI][AP][LR]$")
    configuration: str = Field(max_length=64)
    trainer: str = Field(max_length=128)
    folds: tuple[str, ...] = Field(min_length=1, max_length=10)
    mirroring_axes: tuple[int, ...] = Field(default=(), max_length=3)
    dataset: Mapping[str, Any]
    plans: Mapping[str, Any]

    @model_validator(mode="after")
    def _nothing_but_what_is_known(self) -> Self:
        problems = [*unfit(self.dataset, self.plans, self.configuration, self.trainer), *self._other_labels()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _other_labels(self) -> Iterator[str]:
        known = list(self.dataset["labels"].values()) if isinstance(self.dataset.get("labels"), dict) else []
        if len(self.labels) != len(self.structures) or len(set(self.labels)) != len(self.labels):
            yield "labels: one number for each structure, and none twice"
        if strange := [label for label in self.labels if label not in known or label == 0]:
            yield f"labels: {strange[0]} is none of the dataset's"
        if not all(re.fullmatch(r"all|\d{1,2}", fold) for fold in self.folds):
            yield "folds: each is a number, or all"
        if not set(self.mirroring_axes) <= {0, 1, 2} or len(set(self.mirroring_axes)) != len(self.mirroring_axes):
            yield "mirroring_axes: of 0, 1 and 2, none twice"

    @property
    def planned(self) -> Mapping[str, Any]:
        """The configuration's plan."""
        found: Mapping[str, Any] = self.plans["configurations"][self.configuration]
        return found


def resolved(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits; raises KeyError, ValueError, TypeError."""
    chain: list[str] = []
    while name:
        if name in chain:
            raise ValueError(f"{name} inherits from itself")
        chain.append(name)
        name = configurations[name].get("inherits_from", "")
    found: dict[str, Any] = {}
    for one in reversed(chain):
        found |= configurations[one]
    return {key: value for key, value in found.items() if key != "inherits_from"}


def unfit(dataset: Mapping[str, Any], plans: Mapping[str, Any], configuration: str, trainer: str) -> Iterator[str]:
    """Name everything in the two files that contourd does not take, each in words."""
    try:
        yield from _unfit_dataset(dataset)
        yield from _unfit_plans(plans)
        planned = plans["configurations"][configuration]
        yield from _unfit_configuration(planned, f"configurations.{configuration}")
        yield from _unfit_network(planned["architecture"], f"configurations.{configuration}.architecture")
    except KeyError as error:
        yield f"{error.args[0]} is missing"
    except (TypeError, AttributeError, ValueError, IndexError):
        yield "a value is of another form than nnunetv2 writes"
    if not TRAINER.fullmatch(trainer):
        yield f"trainer {trainer!r}: contourd does not know that its network is the one of the plans"


def _unfit_dataset(dataset: Mapping[str, Any]) -> Iterator[str]:
    channels, labels = dataset["channel_names"], dataset["labels"]
    if len(channels) != 1:
        yield f"channel_names: {len(channels)} channels; contourd has one CT to give"
    if not 2 <= len(labels) <= MOST_LABELS:
        yield f"labels: {len(labels)} labels, contourd takes 2 to {MOST_LABELS}"
    regions = [name for name, label in labels.items() if isinstance(label, list)]
    if regions or dataset.get("regions_class_order"):
        yield f"labels: {', '.join(regions[:3]) or 'regions_class_order'}: region-based training is not taken"
        return
    numbers = sorted(label for label in labels.values())
    if any(type(number) is not int for number in numbers) or labels.get("background") != 0:
        yield "labels: whole numbers, and background is 0"
    elif len(set(numbers)) != len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        yield f"labels: {', '.join(name for name, n in labels.items() if n == twice)} have the same number {twice}"
    elif numbers != list(range(len(numbers))):
        yield "labels: the numbers do not run from 0 without a gap"


def _unfit_plans(plans: Mapping[str, Any]) -> Iterator[str]:
    if plans.get("label_manager", "LabelManager") not in (None, "LabelManager"):
        yield f"label_manager: {plans['label_manager']!r} is not nnunetv2's LabelManager"
    forward, backward = plans["transpose_forward"], plans["transpose_backward"]
    if sorted(forward) != [0, 1, 2] or [forward[i] for i in backward] != [0, 1, 2]:
        yield "transpose_forward, transpose_backward: no permutation and its inverse"
    known = plans.get(
        "foreground_intensity_properties_per_channel", plans.get("foreground_intensity_properties_by_modality")
    )
    if not all(isinstance(value, int | float) for value in known["0"].values()):
        yield "foreground_intensity_properties_per_channel: no numbers"


def _unfit_configuration(planned: Mapping[str, Any], where: str) -> Iterator[str]:
    if planned.get("previous_stage"):
        yield f"{where}: a stage of a cascade, which needs the masks of another one; contourd takes single ones"
    if planned["preprocessor_name"] != "DefaultPreprocessor":
        yield f"{where}.preprocessor_name: {planned['preprocessor_name']!r} is not nnunetv2's own"
    if strange := set(planned["normalization_schemes"]) - NORMALISATIONS:
        yield f"{where}.normalization_schemes: {strange.pop()!r} is not known"
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        if planned[key] not in RESAMPLINGS:
            yield f"{where}.{key}: {planned[key]!r} is not known"
        options = planned[f"{key}_kwargs"]
        if set(options) - RESAMPLING_OPTIONS or not all(
            v is None or isinstance(v, bool | int) for v in options.values()
        ):
            yield f"{where}.{key}_kwargs: holds what nnunetv2 does not write"
    patch, spacing = planned["patch_size"], planned["spacing"]
    if len(patch) not in (2, 3) or len(spacing) != len(patch) or not all(_within(side, 1024) for side in patch):
        yield f"{where}.patch_size: two or three sides of 1 to 1024 voxels, and a spacing for each"
    elif prod(patch) > MOST_PATCH_VOXELS:
        told = " x ".join(map(str, patch))
        yield f"{where}.patch_size: {told} voxels are more than the {MOST_PATCH_VOXELS} of any network"
    if not all(isinstance(mm, int | float) and 0.1 <= mm <= 50 for mm in spacing):
        yield f"{where}.spacing: 0.1 to 50 mm"


def _unfit_network(architecture: Mapping[str, Any], where: str) -> Iterator[str]:
    """Refuse what nnU-Net would import, call or build beyond its own U-Nets."""
    if architecture["network_class_name"] not in NETWORK_CLASSES:
        yield f"{where}.network_class_name: {architecture['network_class_name']!r} is no U-Net of nnunetv2's"
    if strange := set(architecture["_kw_requires_import"]) - set(LAYERS):
        yield f"{where}._kw_requires_import: {strange.pop()!r} is not known"
    options = architecture["arch_kwargs"]
    for key, value in options.items():
        if key in LAYERS:
            fits = value is None or value in LAYERS[key]
        elif key in LAYER_OPTIONS:
            plain = all(isinstance(v, bool | int | float) for v in (value or {}).values())
            fits = value is None or (set(value) <= LAYER_OPTIONS[key] and plain)
        elif key in SHAPE_OPTIONS:
            most = MOST_FEATURES if key in ("features_per_stage", "stem_channels") else MOST_LAYERS
            fits = value is None or all(_within(n, most) for n in _flat(value))
        else:
            fits = key in FLAGS and isinstance(value, bool)
        if not fits:
            yield f"{where}.arch_kwargs.{key}: {str(value)[:80]!r} is not known"
    if not _within(options["n_stages"], MOST_STAGES):
        yield f"{where}.arch_kwargs.n_stages: 1 to {MOST_STAGES}"


def _within(number: object, most: int) -> bool:
    return type(number) is int and 1 <= number <= most


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def feature_bytes(planned: Mapping[str, Any], classes: int) -> int:
    """Return what a network's features of one patch take at most while it runs, in single precision.

    The outputs of the encoder's stages are kept for the decoder; at full resolution there are besides them what is
    joined, what a convolution and a norm make of it, what the library needs to turn its layout, and the logits of a
    patch and of its mirror image.
    """
    options = planned["architecture"]["arch_kwargs"]
    voxels = prod(planned["patch_size"])
    kept = 0.0
    features = [int(n) for n in _flat(options["features_per_stage"]) if isinstance(n, int)]
    share = 1.0
    for width, stride in zip(features, options["strides"], strict=False):
        share /= prod(n for n in _flat(stride) if isinstance(n, int))
        kept += share * width
    return int(4 * voxels * (kept + 8 * features[0] + 3 * classes))
