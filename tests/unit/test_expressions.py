"""The grammar of a bundle's expressions: what it gives, and what it refuses."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.infer.expressions import Expression, ExpressionRefused, evaluate


class Names:
    """A scope with a few references and no classes."""

    device = torch.device("cpu")

    def __init__(self, **values: Any) -> None:
        self._values = values

    def reference(self, name: str) -> Any:
        return self._values[name.replace("#", "_")]

    def load(self, path: str) -> Any:
        raise ExpressionRefused(f"{path} is no file of the bundle")

    def create(self, name: str, arguments: Mapping[str, Any]) -> Any:
        raise ExpressionRefused(f"{name} with {sorted(arguments)}")


SCOPE = Names(size=[96, 96, 64], labels={"spleen": 1}, high=True, a_0="first", n=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@n + 1", 4),
        ("-@n ** 2", -9),
        ("len(@labels) + 1", 2),
        ("[1.5, 1.5] if @high else [3.0]", [1.5, 1.5]),
        ("(@size[0] - 80) // 2", 8),
        ("((@n - 1) // 2,) * 4", (1, 1, 1, 1)),
        ("1.0 - float(80) / float(164)", 1.0 - 80 / 164),
        ("'model.pt' if not @high else 'low.pt'", "low.pt"),
        ("@a#0 + '_meta_dict'", "first_meta_dict"),
        ("@a::0", "first"),
        ("@size[1:]", [96, 64]),
        ("list(range(2)) + [7]", [0, 1, 7]),
        ("1 < @n <= 3 and @n in (3, 4)", True),
        ("{'a': @n}", {"a": 3}),
        ("None", None),
        ("torch.float32", torch.float32),
        ("np.uint8", np.uint8),
        ("monai.utils.CommonKeys.IMAGE", "image"),
        ("torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", torch.device("cpu")),
    ],
)
def test_what_the_grammar_gives(text: str, value: Any) -> None:
    assert evaluate(text, SCOPE) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__mro__",
        "open('/etc/passwd')",
        "eval('1')",
        "os.getpid()",
        "monai.bundle.scripts.os.getpid()",
        "torch.load('model.pt')",
        "torch.hub.load('a', 'b')",
        "np.load('x.npy', allow_pickle=True)",
        "import os",
        "x := 3",
        "[i for i in range(3)]",
        "(i for i in (1,))",
        "f'{@n}'",
        "'%s' % @n",
        "'{}'.format(@n)",
        "@size.append(1)",
        "@size.copy",
        "len(*@size)",
        "dict(**@labels)",
        "print(@n)",
        "getattr(@labels, 'keys')",
        "'a' * 10 ** 9",
        "[0] * 10000000",
        "9 ** 9 ** 9",
        "range(10 ** 12)",
        "lambda: 1",
        "lambda x, y: x",
        "lambda x: x.numpy()",
        "lambda x: torch.save(x, 'f')",
        "lambda x: [y for y in x]",
        "b'bytes'",
        "1j",
        "@missing_",
        "lambda x: np.pi.hex",
        "",
        "(" * 500 + ")" * 500,
    ],
)
def test_what_the_grammar_refuses(text: str) -> None:
    with pytest.raises((ExpressionRefused, KeyError)):
        evaluate(text, SCOPE)


def test_a_lambda_walks_its_tree() -> None:
    text = (
        "lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, "
        "torch.where(x[[1]] > 0, 2, 0)))"
    )
    merge = evaluate(text, SCOPE)
    assert isinstance(merge, Expression)
    masks = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]])
    assert merge(masks).tolist() == [[1, 4, 2, 0]]
    assert evaluate("lambda x : x[1:]", SCOPE)(masks).shape == (2, 4)


@given(st.text(alphabet="@abn#01 +-*/()[]{}.,:'\"lambdatorch_if else", max_size=40))
def test_any_text_gives_a_value_or_a_refusal(text: str) -> None:
    with contextlib.suppress(ExpressionRefused, KeyError):
        evaluate(text, SCOPE)
