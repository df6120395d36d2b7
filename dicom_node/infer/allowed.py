"""The exact list of classes that a bundle may name, and of arguments that it may not give.

What comes in: a `_target_` as a bundle writes it. What goes out: the class, imported from the place that
this table names (never from the bundle's text), and its arguments after the shims below; or a `Refusal`.

Invariant: a prefix is never enough, since `monai.bundle.scripts.os.getpid` begins like a class of MONAI.
Only classes that compute are listed: nothing that reads or writes files, asks the network for weights,
takes Python source, or looks names up by string. Adding a class is adding its name here, and nowhere else.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

NETS = "monai.networks.nets"
TRANSFORMS = "monai.transforms"
INFERERS = "monai.inferers"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Refusal(Exception):
    """This class or argument is not allowed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A class that may be made.

    Attributes:
        home: the module that it is imported from.
        ignored: arguments that bundles give and that we leave out: devices (the runner decides), progress
            bars, and what newer releases of MONAI no longer take.
        forced: arguments whose value is ours, whatever the bundle says.
        refused: arguments that may not be given, with the reason.
    """

    home: str
    ignored: frozenset[str] = frozenset()
    forced: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


DROPPED = _names("""
    LoadImage LoadImaged SaveImage SaveImaged SaveClassificationd DataStats DataStatsd
    EnsureChannelFirst EnsureChannelFirstd ToDevice ToDeviced
""")
"""Named in many bundles and left out: the node reads, writes, and hands over channel-first tensors."""

_NO_DOWNLOAD = {"pretrained": False}

_NETWORKS: dict[str, Allowed] = {
    **{
        name: Allowed(NETS)
        for name in _names("""
        AttentionUnet AutoEncoder BasicUNet BasicUNetPlusPlus Classifier Critic DenseNet DenseNet121
        DenseNet169 DenseNet201 DenseNet264 Discriminator DynUNet FullyConnectedNet Generator GlobalNet
        HighResNet LocalNet MedNeXt MedNeXtS MedNeXtB MedNeXtM MedNeXtL PatchDiscriminator Quicknat
        RegUNet Regressor ResNet ResNetFeatures SENet SENet154 SEResNet50 SEResNet101 SEResNet152
        SEResNeXt50 SEResNeXt101 SegResNet SegResNetDS SegResNetDS2 SegResNetVAE SwinUNETR UNet UNETR
        VNet ViT ViTAutoEnc VarAutoEncoder VoxelMorphUNet TopologyInstance DiNTS HoVerNet
        """)
    },
    "SwinUNETR": Allowed(NETS, ignored=frozenset({"img_size"})),
    "EfficientNetBN": Allowed(NETS, forced=_NO_DOWNLOAD, ignored=frozenset({"progress"})),
    "FlexibleUNet": Allowed(NETS, forced=_NO_DOWNLOAD),
    "TorchVisionFCModel": Allowed(
        NETS,
        forced=_NO_DOWNLOAD,
        refused={"weights": "it downloads weights"},
    ),
    "TopologyInstance": Allowed(NETS, ignored=frozenset({"device"})),
    "SENet": Allowed(NETS, forced=_NO_DOWNLOAD, ignored=frozenset({"progress"})),
    "ResNetFeatures": Allowed(NETS, forced=_NO_DOWNLOAD),
}

_TRANSFORMS: dict[str, Allowed] = {
    name: Allowed(TRANSFORMS, ignored=_names("device progress"))
    for base in _names("""
    Activations AsDiscrete BorderPad CastToType CenterScaleCrop CenterSpatialCrop ClipIntensityPercentiles
    CropForeground DivisiblePad EnsureType FillHoles Flip ForegroundMask GaussianSharpen GaussianSmooth
    HistogramNormalize Identity KeepLargestConnectedComponent LabelFilter MapLabelValue
    MaskIntensity MedianSmooth NormalizeIntensity Orientation RemoveSmallObjects RepeatChannel Resize
    ResizeWithPadOrCrop Rotate90 ScaleIntensity ScaleIntensityRange ScaleIntensityRangePercentiles
    ShiftIntensity SignalFillEmpty Spacing SpatialCrop SpatialPad SqueezeDim
    ThresholdIntensity ToTensor ToNumpy Transpose Zoom AddCoordinateChannels Lambda
    """)
    for name in (base, f"{base}d")
}
_TRANSFORMS |= {
    "Compose": Allowed(TRANSFORMS, ignored=frozenset({"log_stats"})),
    "Invertd": Allowed(TRANSFORMS, ignored=frozenset({"device"})),
    "CopyItemsd": Allowed(TRANSFORMS),
    "DeleteItemsd": Allowed(TRANSFORMS, refused={"use_re": "it takes a regular expression"}),
    "SelectItemsd": Allowed(TRANSFORMS),
    "ConcatItemsd": Allowed(TRANSFORMS),
    "FlattenSubKeysd": Allowed(TRANSFORMS),
    "FromMetaTensord": Allowed(TRANSFORMS),
    "Invert": Allowed(TRANSFORMS, ignored=frozenset({"device"})),
    "AddLabelAsGuidanced": Allowed("monai.apps.nuclick.transforms"),
    "AddClickSignalsd": Allowed("monai.apps.nuclick.transforms"),
    "HoVerNetInstanceMapPostProcessingd": Allowed(
        "monai.apps.pathology.transforms", ignored=frozenset({"device"})
    ),
    "HoVerNetNuclearTypePostProcessingd": Allowed(
        "monai.apps.pathology.transforms", ignored=frozenset({"device"})
    ),
}

_WINDOW_PLAN = _names(
    "device sw_device progress cache_roi_weight_map cpu_thresh buffer_steps buffer_dim"
)
_INFERERS: dict[str, Allowed] = {
    "SimpleInferer": Allowed(INFERERS),
    "SlidingWindowInferer": Allowed(INFERERS, ignored=_WINDOW_PLAN),
    "SlidingWindowInfererAdapt": Allowed(INFERERS, ignored=_WINDOW_PLAN),
    "SliceInferer": Allowed(INFERERS, ignored=_WINDOW_PLAN),
    "SlidingWindowHoVerNetInferer": Allowed("monai.apps.pathology.inferers", ignored=_WINDOW_PLAN),
}

OWN_NETWORKS: Mapping[str, str] = {
    "FilmCNN": "ai_models.networks.film_cnn",
    "ResidualDenoiser": "ai_models.networks.residual_denoiser",
    "SidedUNet": "ai_models.networks.sided_unet",
    "SliceSequenceNet": "ai_models.networks.slice_sequence",
}
"""Networks of this project: class name -> its module under `ai_models.networks`."""

ALLOWED: Mapping[str, Allowed] = {
    **_NETWORKS,
    **_TRANSFORMS,
    **_INFERERS,
    **{name: Allowed(home) for name, home in OWN_NETWORKS.items()},
}


def short_name(target: str) -> str:
    """The class name at the end of a `_target_`."""
    return target.rsplit(".", 1)[-1]


def is_dropped(target: str) -> bool:
    """Whether this class is one that is left out: files are the node's business, not the bundle's."""
    name = short_name(target)
    return name in DROPPED and target in {name, f"{TRANSFORMS}.{name}"}


def find(target: str) -> type:
    """The class that a `_target_` names.

    Raises:
        Refusal: it is not on the list, or is written with a path that is not its own.
    """
    name = short_name(target)
    if name not in ALLOWED:
        hint = (
            "; it is code of the bundle's own, which infer.trusted_bundles may allow"
            if target.startswith("scripts.")
            else ""
        )
        raise Refusal(f"{target} is not on the list of allowed classes{hint}")
    found = _import(name)
    homes = {ALLOWED[name].home, found.__module__}
    if target != name and target.rsplit(".", 1)[0] not in homes:
        raise Refusal(f"{target} is not where {name} lives")
    return found


def make(target: str, arguments: Mapping[str, Any]) -> Any:
    """An object of an allowed class.

    Raises:
        Refusal: the class or an argument is not allowed, or the class does not take these arguments.
    """
    found = find(target)
    name = short_name(target)
    entry = ALLOWED[name]
    for key, value in arguments.items():
        if key in entry.refused:
            raise Refusal(f"{name}.{key} may not be given: {entry.refused[key]}")
        _check_value(f"{name}.{key}", value)
    given = {key: value for key, value in arguments.items() if key not in entry.ignored}
    parameters = inspect.signature(found).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given |= {key: v for key, v in entry.forced.items() if key in parameters or open_ended}
    unknown = sorted(set(given) - set(parameters))
    if unknown and not open_ended:
        raise Refusal(f"{name} takes no argument {', '.join(unknown)}")
    try:
        return found(**given)
    except Exception as error:
        raise Refusal(f"{name} cannot be made: {_first_line(error)}") from error


@cache
def _import(name: str) -> type:
    return getattr(importlib.import_module(ALLOWED[name].home), name)  # type: ignore[no-any-return]


def _check_value(where: str, value: Any) -> None:
    """No argument may name a file: nothing here needs one, so a path can only be mischief."""
    if isinstance(value, str):
        if "/" in value or "\\" in value or "\0" in value:
            raise Refusal(f"{where} is {value!r}, which looks like a path")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_value(f"{where}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(where, item)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
