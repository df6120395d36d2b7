"""The expressions of a bundle, read by a small grammar instead of `eval`.

What comes in: the text after `$` in a configuration, and a `Scope` that knows what `@references` and
class names mean. What goes out: a plain value, an allow-listed object, or an `Expression` (a lambda of
one argument) that walks its own syntax tree. Anything outside the grammar raises `ExpressionRefused`.

The grammar: literals, lists, tuples, dictionaries, references, arithmetic, comparisons, `and`/`or`/`not`,
`if`-`else`, subscripts, a few pure functions (`len`, `range`, ...), named dtypes, the device, tensors from
a file of the bundle's own, and calls of allow-listed classes. Inside a lambda also `torch.where` and
`torch.nan_to_num`.

Invariant: Python's own `eval`, `exec`, `compile`, `import`, attribute access, and formatting are never
reached. It must not grow a way to name an attribute of a value.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

MAX_TEXT = 4000
MAX_ITEMS = 100_000
MAX_POWER = 64

_REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)")

DTYPES: Mapping[str, Any] = {
    **{
        f"torch.{name}": getattr(torch, name)
        for name in (
            "float", "float16", "bfloat16", "float32", "float64", "half", "double", "long", "int",
            "bool", "uint8", "int8", "int16", "int32", "int64",
        )
    },
    **{
        f"{module}.{name}": getattr(np, name)
        for module in ("np", "numpy")
        for name in (
            "float16", "float32", "float64", "uint8", "uint16", "int8", "int16", "int32", "int64",
        )
    },
}  # fmt: skip

CONSTANTS: Mapping[str, Any] = {
    **DTYPES,
    "np.pi": float(np.pi),
    "numpy.pi": float(np.pi),
    "monai.utils.CommonKeys.IMAGE": "image",
    "monai.utils.CommonKeys.LABEL": "label",
    "monai.utils.CommonKeys.PRED": "pred",
}

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, holder: item in holder,
    ast.NotIn: lambda item, holder: item not in holder,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len,
    "list": list,
    "tuple": tuple,
    "set": set,
    "sorted": sorted,
    "range": range,
    "int": int,
    "float": float,
    "bool": bool,
    "min": min,
    "max": max,
    "sum": sum,
    "abs": abs,
    "round": round,
}
_TENSOR_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch.where": torch.where,
    "torch.nan_to_num": torch.nan_to_num,
}
_PLAIN = (bool, int, float, str, list, tuple, set, dict, range, type(None))


class ExpressionRefused(Exception):
    """The expression lies outside the grammar; the message says which part."""


class Scope(Protocol):
    """What an expression may name."""

    def reference(self, name: str) -> Any:
        """The value of `@name`."""

    def create(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """An object of an allow-listed class; refuses any other name."""

    def load(self, path: str) -> Any:
        """What a file of the bundle's own holds, tensors and arrays alone."""

    @property
    def device(self) -> torch.device:
        """The device that the runner chose, whatever the bundle asks for."""


class Expression:
    """A lambda of one argument, kept as its syntax tree; calling it walks the tree."""

    def __init__(self, parameter: str, body: ast.expr, walker: "_Walker") -> None:
        self._parameter = parameter
        self._body = body
        self._walker = walker

    def __call__(self, value: Any) -> Any:
        return self._walker.within({self._parameter: value}).value(self._body)


def evaluate(text: str, scope: Scope) -> Any:
    """The value of an expression (its text without the leading `$`).

    Raises:
        ExpressionRefused: it is not an expression, or uses what the grammar does not hold.
    """
    if len(text) > MAX_TEXT:
        raise ExpressionRefused(f"an expression of {len(text)} characters")
    if "__" in text:
        raise ExpressionRefused("a name with two underscores")
    references: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = f"__reference_{len(references)}"
        references[name] = match.group(1).replace("::", "#")
        return name

    try:
        tree = ast.parse(_REFERENCE.sub(placeholder, text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionRefused(f"{text!r} is not an expression") from error
    try:
        return _Walker(scope, references, {}).value(tree.body)
    except ExpressionRefused:
        raise
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
        raise ExpressionRefused(f"{text!r}: {error}") from error


class _Walker:
    def __init__(
        self, scope: Scope, references: Mapping[str, str], names: Mapping[str, Any]
    ) -> None:
        self._scope = scope
        self._references = references
        self._names = names

    def within(self, names: Mapping[str, Any]) -> "_Walker":
        return _Walker(self._scope, self._references, {**self._names, **names})

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ExpressionRefused(f"{_shown(node)}: {type(node).__name__} is not allowed")
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, bool | int | float | str | type(None)):
            raise ExpressionRefused(f"{_shown(node)}: such a literal is not allowed")
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self._references:
            return self._scope.reference(self._references[node.id])
        if node.id in self._names:
            return self._names[node.id]
        raise ExpressionRefused(f"{node.id}: no such name")

    def _attribute(self, node: ast.Attribute) -> Any:
        name = _dotted(node)
        if name is not None and name in CONSTANTS:
            return CONSTANTS[name]
        raise ExpressionRefused(f"{_shown(node)}: no such constant")

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        apply = _BINARY.get(type(node.op))
        if apply is None:
            raise ExpressionRefused(f"{_shown(node)}: this operator is not allowed")
        for side in (left, right):
            if not isinstance(side, (*_PLAIN, torch.Tensor)):
                raise ExpressionRefused(f"{_shown(node)}: arithmetic on {type(side).__name__}")
        _check_size(node, left, right)
        return apply(left, right)

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        apply = _UNARY.get(type(node.op))
        if apply is None:
            raise ExpressionRefused(f"{_shown(node)}: this operator is not allowed")
        return apply(self.value(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        stops_at = isinstance(node.op, ast.Or)
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is stops_at:
                break
        return result

    def _compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        result: Any = True
        for kind, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.value(comparator)
            result = _COMPARE[type(kind)](left, right)
            if len(node.ops) > 1 and not result:
                return False
            left = right
        return result

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _list(self, node: ast.List) -> list[Any]:
        return [self.value(item) for item in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.value(item) for item in node.elts)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        result = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise ExpressionRefused(f"{_shown(node)}: ** is not allowed")
            result[self.value(key)] = self.value(value)
        return result

    def _subscript(self, node: ast.Subscript) -> Any:
        holder = self.value(node.value)
        if not isinstance(holder, (list, tuple, dict, str, torch.Tensor)):
            raise ExpressionRefused(f"{_shown(node)}: a subscript of {type(holder).__name__}")
        return holder[self.value(node.slice)]

    def _slice(self, node: ast.Slice) -> slice:
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if part is None else self.value(part) for part in parts))

    def _lambda(self, node: ast.Lambda) -> Expression:
        rules = node.args
        extra = rules.posonlyargs or rules.kwonlyargs or rules.vararg or rules.kwarg
        if len(rules.args) != 1 or extra or rules.defaults:
            raise ExpressionRefused(f"{_shown(node)}: a lambda takes one argument")
        _check_lambda(node.body)
        return Expression(rules.args[0].arg, node.body, self)

    def _call(self, node: ast.Call) -> Any:
        name = _dotted(node.func)
        if name is None:
            raise ExpressionRefused(f"{_shown(node)}: only named functions are called")
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionRefused(f"{_shown(node)}: * is not allowed")
        if any(keyword.arg is None for keyword in node.keywords):
            raise ExpressionRefused(f"{_shown(node)}: ** is not allowed")
        if name == "torch.device":
            return self._scope.device
        if name == "torch.cuda.is_available":
            return self._scope.device.type == "cuda"
        if name == "torch.load":
            # where the tensors go and how the file is read is the runner's business
            return self._scope.load(self.value(node.args[0]))
        keywords = {str(word.arg): self.value(word.value) for word in node.keywords}
        arguments = [self.value(argument) for argument in node.args]
        if name in _FUNCTIONS and not keywords:
            _check_arguments(node, name, arguments)
            return _FUNCTIONS[name](*arguments)
        if name in _TENSOR_FUNCTIONS and self._names:
            return _TENSOR_FUNCTIONS[name](*arguments, **keywords)
        if name == "torch.from_numpy" and len(arguments) == 1 and not keywords:
            return torch.as_tensor(arguments[0])
        if "." in name and not arguments:
            return self._scope.create(name, keywords)
        raise ExpressionRefused(f"{_shown(node)}: {name} is not allowed here")


def _check_lambda(body: ast.expr) -> None:
    """Refuse now what would be refused when the lambda runs: unknown calls and attributes."""
    for node in ast.walk(body):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            if name not in _TENSOR_FUNCTIONS and name not in _FUNCTIONS:
                raise ExpressionRefused(f"{_shown(node)}: {name} is not allowed in a lambda")
        elif isinstance(node, ast.Lambda | ast.ListComp | ast.GeneratorExp | ast.JoinedStr):
            raise ExpressionRefused(f"{_shown(node)}: {type(node).__name__} is not allowed")
    called = {id(part) for node in ast.walk(body) if isinstance(node, ast.Call)
              for part in ast.walk(node.func)}  # fmt: skip
    for node in ast.walk(body):
        if (
            isinstance(node, ast.Attribute)
            and id(node) not in called
            and _dotted(node) not in CONSTANTS
        ):
            raise ExpressionRefused(f"{_shown(node)}: no such constant")


def _check_size(node: ast.BinOp, left: Any, right: Any) -> None:
    """Keep arithmetic from eating memory: long repetitions, towers of powers."""
    if isinstance(node.op, ast.Pow) and not (
        isinstance(right, int | float) and abs(right) <= MAX_POWER
        and isinstance(left, int | float) and abs(left) <= 1e6
    ):  # fmt: skip
        raise ExpressionRefused(f"{_shown(node)}: a power this large")
    if isinstance(node.op, ast.Mult):
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                if len(sequence) * max(count, 0) > MAX_ITEMS:
                    raise ExpressionRefused(f"{_shown(node)}: a repetition this long")
            elif isinstance(sequence, int) and isinstance(count, int) and (
                sequence.bit_length() + count.bit_length() > 256
            ):  # fmt: skip
                raise ExpressionRefused(f"{_shown(node)}: a number this large")
    if isinstance(node.op, ast.Mod) and isinstance(left, str):
        raise ExpressionRefused(f"{_shown(node)}: formatting is not allowed")


def _check_arguments(node: ast.Call, name: str, arguments: list[Any]) -> None:
    for argument in arguments:
        if not isinstance(argument, _PLAIN):
            raise ExpressionRefused(f"{_shown(node)}: {name} of {type(argument).__name__}")
    if name == "range" and len(range(*arguments)) > MAX_ITEMS:
        raise ExpressionRefused(f"{_shown(node)}: a range this long")


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` as written; None for anything but plain names joined by dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (holder := _dotted(node.value)) is not None:
        return f"{holder}.{node.attr}"
    return None


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 80 else text[:77] + "..."
