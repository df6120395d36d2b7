"""Settings of what is done and where it goes: models, destinations, routes, the canary, retention."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dicom_node.settings.kinds import AETitle, Port, Seconds, Section
from dicom_node.settings.scale import RaySettings


class InferSettings(Section):
    """The inference worker."""

    processes: int = Field(
        1,
        ge=0,
        le=256,
        description="Inference workers on this host; 0 where others do that. One for each device.",
    )
    engine: Literal["local", "ray"] = Field(
        "local", description="Run models on this machine's device, or in a Ray cluster."
    )
    ray: RaySettings = RaySettings()
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    threads: int = Field(0, ge=0, description="CPU threads for a model; 0 takes all cores.")
    cpu_engine: Literal["auto", "torch"] = Field(
        "auto",
        description="auto: the fastest of those installed (torch, OpenVINO, ONNX Runtime) that gives "
        "what torch gives; or torch as it comes.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16 is faster and changes labels at borders: used where no more than 0.1 % "
        "of them change, and never for denoising. Needs cpu_engine = auto.",
    )
    lease_seconds: Seconds = Field(
        30.0, description="A worker silent for so long has lost its job to another."
    )
    job_seconds: Seconds = Field(1800.0, description="The longest time that one job may take.")
    concurrency: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Model: how many of its jobs may run at once, over all workers.",
    )
    trusted_bundles: tuple[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,40}@[0-9a-f]{64}$")], ...
    ] = Field(
        (),
        description="Models whose own code may run (scripts, TorchScript, torch.export), each as "
        "name@digest: other bytes under that name are refused. The refusal says what to write here.",
    )


class DeliverSettings(Section):
    """The courier."""

    ae_title: AETitle | None = Field(
        None, description="Our calling AE title; default: the listener's."
    )
    retry_first_seconds: Seconds = Field(2.0, description="Wait after the first failure.")
    retry_longest_seconds: Seconds = Field(600.0, description="The longest wait between two tries.")
    max_attempts: int = Field(
        200, ge=1, description="Tries after which a delivery is given up as DEAD."
    )
    network_timeout: Seconds = Field(30.0, description="Seconds to wait for a PACS's answer.")
    report_port: Port | None = Field(
        None,
        description="Listen here for storage commitment reports that a PACS sends on an association "
        "of its own; 0 takes a free port, none does not listen.",
    )
    confirm_first_seconds: Seconds = Field(
        2.0, description="Wait before a PACS is first asked whether it keeps what it took."
    )
    confirm_grace_seconds: Seconds = Field(
        300.0,
        description="A PACS indexes late: only what it does not list after so long is sent again.",
    )
    poll_seconds: Seconds = Field(0.25, description="How often due deliveries are looked for.")


ResultKind = Literal[
    "seg",
    "sr",
    "denoised",
    "heatmap",
    "secondary_capture",
    "presentation_state",
    "key_objects",
    "rejection",
    "uncertainty",
]


SegmentationEncoding = Literal["binary", "labelmap", "fractional"]


class DestinationSettings(Section):
    """A PACS that results go to, and its profile: what it takes and how it confirms."""

    ae_title: AETitle = Field(description="Its AE title.")
    host: str = Field(description="Its host.")
    port: Port = Field(description="Its DICOM port.")
    objects: tuple[ResultKind, ...] = Field(
        ("seg", "sr", "denoised", "heatmap"),
        description="Which kinds of result it is sent. For viewers without segmentations: "
        "secondary_capture draws outlines on copies of the images, presentation_state over the images "
        "themselves. key_objects lists the result set (IHE AI "
        "Results); rejection withdraws what a later answer takes the place of (IHE IOCM); "
        "uncertainty is a map of where a segmentation is to be doubted, of models that give one.",
    )
    segmentation: SegmentationEncoding = Field(
        "binary",
        description="How a segmentation is encoded. fractional holds probabilities, of models whose "
        "`dicom.toml` keeps them; of others it is binary.",
    )
    confirm: Literal["response", "query", "commitment"] = Field(
        "response",
        description="What makes a delivery CONFIRMED: the C-STORE answer, a C-FIND that finds it, "
        "or storage commitment.",
    )
    stow_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="The base of its DICOMweb service: results then go by STOW-RS, and `query` "
        "confirms by QIDO-RS.",
    )
    authorization_file: Path | None = Field(
        None, description="With stow_url: a file that holds the value of the Authorization header."
    )

    @model_validator(mode="after")
    def _web_has_no_commitment(self) -> "DestinationSettings":
        if self.stow_url is not None and self.confirm == "commitment":
            raise ValueError("storage commitment is DIMSE's; with stow_url confirm by query")
        return self


class RouteMatch(Section):
    """What a series must be for a route; each list is of shell patterns, any of which may match."""

    modality: tuple[str, ...] = Field((), description="Modality, for example CT.")
    calling_ae: tuple[str, ...] = Field((), description="The sender's AE title.")
    called_ae: tuple[str, ...] = Field((), description="The AE title that the sender called.")
    body_part: tuple[str, ...] = Field((), description="Body Part Examined.")
    series_description: tuple[str, ...] = Field((), description="Series Description.")
    study_description: tuple[str, ...] = Field((), description="Study Description.")
    image_type: tuple[str, ...] = Field((), description="Any value of Image Type.")
    kernel: tuple[str, ...] = Field((), description="Convolution Kernel.")
    min_instances: int = Field(1, ge=1, description="The fewest instances.")
    max_instances: int | None = Field(None, ge=1, description="The most instances.")


class RouteSeries(Section):
    """One of several series of a study that a route's models take together, in the order in which they
    take them. The job starts when each is complete; the result lies on the first."""

    name: str = Field(pattern=r"^[A-Za-z0-9_. -]{1,32}$", description="What the series is called.")
    match: RouteMatch = Field(RouteMatch(), description="What it must be.")


class RouteSettings(Section):
    """Which series get which models, and where the results go. Every route that matches applies."""

    name: str = Field(description="A name for status and logs.")
    match: RouteMatch = RouteMatch()
    series: tuple[RouteSeries, ...] = ()
    models: tuple[str, ...] = Field(min_length=1, description="Models to run.")
    destinations: tuple[str, ...] = Field(min_length=1, description="Destinations of the results.")
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")

    @model_validator(mode="after")
    def _takes_one_series_or_several(self) -> "RouteSettings":
        names = [one.name for one in self.series]
        if len(names) == 1 or len(names) != len(set(names)):
            raise ValueError("a route of several series names two or more, each differently")
        if self.series and self.match != RouteMatch():
            raise ValueError("a route has either `match` or several `series`, each with its match")
        return self


class CanarySettings(Section):
    """A phantom that the node sends to itself through the whole path, so that a fault shows before a
    patient's study meets it. Its series match no other route."""

    every_seconds: Seconds | None = Field(
        None, description="How often; 3600 is hourly. Without it there is no canary."
    )
    ae_title: AETitle = Field(
        "DN_CANARY",
        description="The AE title that it calls from; the node must accept it as a peer.",
    )
    models: tuple[str, ...] = Field((), description="Models that it goes through.")
    destinations: tuple[str, ...] = Field(
        (),
        description="Where its results go; a destination that is the node itself keeps a phantom "
        "out of the PACS.",
    )
    late_seconds: Seconds = Field(
        900.0, description="A canary that is not delivered after so long is an alarm."
    )

    @model_validator(mode="after")
    def _has_a_way(self) -> "CanarySettings":
        if self.every_seconds is not None and not (self.models and self.destinations):
            raise ValueError("a canary needs models and destinations")
        return self


class RetentionSettings(Section):
    """How long images are kept. What is held, unfinished or not delivered is kept whatever stands here."""

    days: float = Field(
        14.0, ge=0, description="Days after which the images of a delivered series go."
    )
    keep_free_mb: int = Field(
        4096,
        ge=0,
        description="Free disk below which images of delivered series go before their time, "
        "oldest first.",
    )
    sweep_seconds: Seconds = Field(600.0, description="How often the disk is cleared up.")
