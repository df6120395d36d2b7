"""Which engine runs a network on this machine: the fastest that gives what torch gives.

What comes in: a loaded bundle whose windows have a fixed size. What goes out: functions that give what its
networks give, sooner, or nothing. Torch as it comes stays the reference: on windows of a procedural pattern
an engine must give the same labels (all but `LABELS_MAY_DIFFER` of them), or values within
`VALUES_MAY_DIFFER` of their range, and it must be worth `WORTH` times torch, both timed in turns; else it is
not used. bfloat16 is tried where the admin asks for it, under a gate of its own, and never for a model that
gives values.

What came of each trial is kept in a record beside the converted networks, under the digest of the model and
of all that the trial depends on, so that every model is tried once on a machine. One engine a call, since a
job that comes meanwhile waits for it.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.engines import ENGINES, Engine, Fast, Precision
from dicom_node.infer.networks import is_own_module
from dicom_node.infer.plan import window_size
from dicom_node.infer.windows import first_tensor
from dicom_node.observe.logging import get_logger

log = get_logger(__name__)

LABELS_MAY_DIFFER = 1e-4
HALF_LABELS_MAY_DIFFER = 1e-3
"""In bfloat16, which changes labels at borders."""
VALUES_MAY_DIFFER = 1e-3
WORTH = 1.1
"""Times as fast as torch: below it, nothing is gained that would be worth another way."""
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of an engine.

    Attributes:
        speedup: torch's time divided by the engine's; 0 where it could not be made.
        difference: share of labels that change, or the largest change of a value as a share of their range.
        used: it may be used.
        error: the type of what was raised, where it could not be made.
    """

    speedup: float = 0.0
    difference: float = 1.0
    used: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is known so far of the engines for a bundle.

    Attributes:
        engine: the one in use; None is torch as it comes.
        networks: one for each of the bundle's; empty where torch runs them.
        complete: no engine is left to try.
    """

    engine: str | None = None
    networks: tuple[Fast, ...] = ()
    complete: bool = True
    speedup: float = 1.0


def try_next(bundle: LoadedBundle, cache: Path, precision: Precision = "float32") -> Choice:
    """Try one more engine, in seconds, and choose among those that were tried."""
    trials = _Trials.of(bundle, cache, precision)
    if trials is None or not trials.left:
        return kept(bundle, cache, precision)
    name = trials.left[0]
    cache.mkdir(parents=True, exist_ok=True)
    trial = _tried(ENGINES[name], bundle, trials)
    log.info("engine tried", model=bundle.description.name, engine=name, **asdict(trial))
    trials.note(name, trial)
    if not trial.used:
        trials.drop(ENGINES[name])
    return kept(bundle, cache, precision)


def kept(bundle: LoadedBundle, cache: Path, precision: Precision = "float32") -> Choice:
    """The best of the engines that were tried before, ready to use."""
    trials = _Trials.of(bundle, cache, precision)
    if trials is None:
        return Choice()
    known = trials.read()
    best = max(
        (name for name, trial in known.items() if trial.used),
        key=lambda name: known[name].speedup,
        default=None,
    )
    if best is None:
        return Choice(complete=not trials.left)
    try:
        networks = trials.each(bundle, ENGINES[best].load)
    except Exception as error:
        log.warning("kept engine not read", engine=best, error=type(error).__name__)
        trials.note(best, Trial(error=type(error).__name__))
        return kept(bundle, cache, precision)
    return Choice(best, networks, not trials.left, known[best].speedup)


def was_refused(bundle: LoadedBundle, cache: Path, precision: Precision = "float32") -> bool:
    """Whether an engine was made for this bundle and gave something else than torch."""
    trials = _Trials.of(bundle, cache, precision)
    known = trials.read().values() if trials is not None else ()
    return any(not trial.error and trial.difference > _limit(bundle, precision) for trial in known)


@dataclass(frozen=True, slots=True)
class _Trials:
    """The record of a bundle's trials."""

    cache: Path
    key: str
    shape: tuple[int, ...]
    precision: Precision
    engines: tuple[str, ...]

    @classmethod
    def of(cls, bundle: LoadedBundle, cache: Path, precision: Precision) -> "_Trials | None":
        """None where no engine can run this bundle."""
        size = window_size(bundle.inferer)
        if size is None or not all(is_own_module(network) for network in bundle.networks):
            return None
        if _gives_values(bundle):
            precision = "float32"
        shape = (1, bundle.channels, *size)
        names = tuple(
            name
            for name, engine in ENGINES.items()
            if bundle.device.type in engine.devices
            and precision in engine.precisions
            and engine.is_installed
        )
        # by everything that the outcome depends on
        parts = (
            bundle.digest,
            shape,
            bundle.device,
            precision,
            torch.get_num_threads(),
            _versions(),
        )
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return cls(cache, key, shape, precision, names)

    @property
    def left(self) -> tuple[str, ...]:
        known = self.read()
        return tuple(name for name in self.engines if name not in known)

    def read(self) -> Mapping[str, Trial]:
        try:
            record = json.loads(self._file.read_text())
            return {name: Trial(**trial) for name, trial in record["engines"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none yet, or not one of ours: everything is tried again

    def note(self, name: str, trial: Trial) -> None:
        known = {**self.read(), name: trial}
        record = {"engines": {one: asdict(known[one]) for one in known}}
        partial = self._file.with_name(f"partial-{os.getpid()}.json")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(self._file)

    def each(self, bundle: LoadedBundle, work: Callable[..., Fast]) -> tuple[Fast, ...]:
        """`Engine.make` or `Engine.load`, for each network of the bundle."""
        return tuple(
            work(network, self.shape, self.precision, self.cache / f"{self.key}-{number}.network")
            for number, network in enumerate(bundle.networks)
        )

    def drop(self, engine: Engine) -> None:
        """Remove what an engine kept that is not used."""
        for suffix in engine.files:
            for path in self.cache.glob(f"{self.key}-*{suffix}"):
                path.unlink()

    @property
    def _file(self) -> Path:
        return self.cache / f"{self.key}.json"


def _versions() -> str:
    packages = ("torch", "openvino", "onnxruntime")
    return " ".join(f"{name} {version(name)}" for name in packages if find_spec(name) is not None)


def _tried(engine: Engine, bundle: LoadedBundle, trials: _Trials) -> Trial:
    try:
        with torch.inference_mode(False):
            networks = trials.each(bundle, engine.make)
        with torch.inference_mode():
            difference = _difference(bundle, networks, trials.shape)
            speedup = _speedup(bundle, networks[0], trials.shape)
    except Exception as error:
        return Trial(error=type(error).__name__)
    used = difference <= _limit(bundle, trials.precision) and speedup >= WORTH
    return Trial(round(speedup, 3), difference, used)


def _limit(bundle: LoadedBundle, precision: Precision) -> float:
    if _gives_values(bundle):
        return VALUES_MAY_DIFFER
    return HALF_LABELS_MAY_DIFFER if precision == "bfloat16" else LABELS_MAY_DIFFER


def _difference(bundle: LoadedBundle, networks: tuple[Fast, ...], shape: tuple[int, ...]) -> float:
    """The worst of the networks on two patterns."""
    worst = 0.0
    for seed in (0, 1):
        window = _pattern(shape, seed).to(bundle.device)
        for network, fast in zip(bundle.networks, networks, strict=True):
            wanted, found = first_tensor(network(window)), fast(window)
            if _gives_values(bundle) or wanted.shape[1] == 1:
                reach = float(wanted.max() - wanted.min()) or 1.0
                worst = max(worst, float((found - wanted).abs().max()) / reach)
            else:
                worst = max(worst, float((found.argmax(1) != wanted.argmax(1)).float().mean()))
    return worst


def _speedup(bundle: LoadedBundle, fast: Fast, shape: tuple[int, ...]) -> float:
    """Torch's time over the engine's, the least of a few rounds in turns."""
    window = _pattern(shape, 0).to(bundle.device)
    fast(window)
    rounds = [(_seconds(bundle.network, window), _seconds(fast, window)) for _ in range(ROUNDS)]
    return min(plain for plain, _ in rounds) / max(min(faster for _, faster in rounds), 1e-9)


def _seconds(network: Callable[[torch.Tensor], Any], window: torch.Tensor) -> float:
    began = time.perf_counter()
    network(window)
    if window.device.type == "cuda":
        torch.cuda.synchronize(window.device)
    return time.perf_counter() - began


def _gives_values(bundle: LoadedBundle) -> bool:
    return bundle.description.model.task == "denoising"


def _pattern(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Smooth blobs with noise between 0 and 1: flat regions, borders and texture, as in an image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(
        (*shape[:2], *(max(size // 16, 2) for size in shape[2:])), generator=generator
    )
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[len(shape)]
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode=mode, align_corners=True)
    return (smooth.round() * 0.7 + torch.rand(shape, generator=generator) * 0.1).float()
