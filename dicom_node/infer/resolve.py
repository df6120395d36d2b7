"""A bundle's configuration, resolved as data: references, expressions, allow-listed objects.

What comes in: the parsed `inference.json`. What goes out: the objects behind the ids that are asked for
(`network_def`, `preprocessing`, `inferer`, `postprocessing`), and nothing else: what these do not reach,
`imports`, data lists, handlers, evaluators, is never looked at.

Invariant: every object comes from `allowed.make`, every expression from `expressions.evaluate`; only for a
bundle that the admin trusts, `scripts.*` comes from the bundle's own code. A refusal names file, key and
reason.
"""

import posixpath
from collections.abc import Mapping
from typing import Any

import torch

from dicom_node.errors import BundleRefused
from dicom_node.infer import allowed
from dicom_node.infer.expressions import ExpressionRefused, evaluate
from dicom_node.infer.scripts import ScriptFailed, script_class
from dicom_node.infer.weights import read_tensors

MAX_DEPTH = 60
MAX_IDS = 20_000
"""More ids than this are no configuration but nested YAML aliases, which would multiply without end."""

_LEFT_OUT = object()
"""Stands for an object that is dropped; lists leave it out."""


class Resolver:
    """Resolves ids of one configuration, each once."""

    def __init__(
        self,
        config: Mapping[str, Any],
        file: str,
        device: torch.device,
        files: Mapping[str, bytes] | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        """
        Args:
            config: the parsed configuration.
            file: its name, for refusals.
            device: the one that the runner chose.
            files: the bundle's files by relative name, for expressions that load tensors.
            trusted: the admin's word that the bundle's own Python code may run.
        """
        # wherever the bundle believes to be, its files are those that were hashed
        self._config = {**config, "bundle_root": "."}
        self._files = files or {}
        self._trusted = trusted
        self._file = file
        self._device = device
        self._done: dict[str, Any] = {}
        self._under_way: list[str] = []

    @property
    def device(self) -> torch.device:
        """The device that the runner chose."""
        return self._device

    def resolve(self, key: str) -> Any:
        """The value or object behind an id such as `network_def` or `preprocessing#transforms`.

        Raises:
            BundleRefused: it is missing, goes in a circle, or is not allowed.
        """
        key = key.replace("::", "#")
        if key in self._done:
            return self._done[key]
        if key in self._under_way:
            raise self._refused(key, f"refers to itself through {' -> '.join(self._under_way)}")
        if len(self._done) >= MAX_IDS:
            raise self._refused(key, f"more than {MAX_IDS} values")
        if len(self._under_way) >= MAX_DEPTH:
            raise self._refused(key, "references this deep")
        self._under_way.append(key)
        try:
            value = self._value(key, self._raw(key))
        finally:
            self._under_way.pop()
        self._done[key] = value
        return value

    def reference(self, name: str) -> Any:
        """`@name` inside an expression."""
        return _or_none(self.resolve(name))

    def create(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """`$dotted.Name(key=value)` inside an expression."""
        try:
            return allowed.make(name, arguments)
        except allowed.Refusal as refusal:
            raise ExpressionRefused(str(refusal)) from refusal

    def load(self, path: str) -> Any:
        """`$torch.load(path)` inside an expression: a file of the bundle, tensors and arrays alone."""
        name = posixpath.normpath(path) if isinstance(path, str) else repr(path)
        if name not in self._files:
            raise ExpressionRefused(f"{name} is no file of the bundle")
        try:
            return read_tensors(name, self._files[name])
        except BundleRefused as refused:
            raise ExpressionRefused(str(refused)) from refused

    def raw(self, key: str) -> Any:
        """The plain data at an id; None where there is none."""
        try:
            return self._raw(key)
        except BundleRefused:
            return None

    def _raw(self, key: str) -> Any:
        node: Any = self._config
        for part in key.split("#"):
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise self._refused(key, "is missing") from error
        return node

    def _value(self, key: str, raw: Any) -> Any:
        if isinstance(raw, str):
            return self._text(key, raw)
        if isinstance(raw, list):
            items = (self.resolve(f"{key}#{index}") for index in range(len(raw)))
            return [item for item in items if item is not _LEFT_OUT]
        if isinstance(raw, dict):
            if "_target_" in raw:
                return self._object(key, raw)
            return {name: _or_none(self.resolve(f"{key}#{name}")) for name in raw}
        return raw

    def _text(self, key: str, text: str) -> Any:
        if text.startswith("$"):
            try:
                return evaluate(text[1:], self)
            except ExpressionRefused as refusal:
                raise self._refused(key, str(refusal)) from refusal
        if text.startswith("@"):
            return self.resolve(text[1:])
        if text.startswith("%"):
            raise self._refused(key, f"{text!r}: a macro reads other files")
        return text

    def _object(self, key: str, raw: Mapping[str, Any]) -> Any:
        target = raw["_target_"]
        if not isinstance(target, str):
            raise self._refused(key, "_target_ is not a text")
        if "_disabled_" in raw and self._is_true(f"{key}#_disabled_"):
            return _LEFT_OUT
        if allowed.is_dropped(target):
            return _LEFT_OUT
        if raw.get("_mode_", "default") != "default":
            raise self._refused(key, f"_mode_ {raw['_mode_']!r} is not allowed")
        own = self._trusted and target.startswith("scripts.")
        try:
            if not own:
                allowed.find(target)
            names = [name for name in raw if not (name.startswith("_") and name.endswith("_"))]
            arguments = {name: _or_none(self.resolve(f"{key}#{name}")) for name in names}
            return (
                self._of_its_own(key, target, arguments) if own else allowed.make(target, arguments)
            )
        except allowed.Refusal as refusal:
            raise self._refused(key, str(refusal)) from refusal

    def _of_its_own(self, key: str, target: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return script_class(self._files, target)(**arguments)
        except ScriptFailed as failed:
            raise self._refused(key, str(failed)) from failed
        except Exception as error:
            raise self._refused(key, f"{target}: {type(error).__name__}: {error}") from error

    def _is_true(self, key: str) -> bool:
        value = self.resolve(key)
        return value is True or (isinstance(value, str) and value.lower() == "true")

    def _refused(self, key: str, reason: str) -> BundleRefused:
        return BundleRefused(f"{self._file}: {key}: {reason}")


def _or_none(value: Any) -> Any:
    return None if value is _LEFT_OUT else value
