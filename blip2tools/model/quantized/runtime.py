"""Products with matrices of 4 bits by onnxruntime, where it is installed: it reads four bits and rounds states block by block.

Its operator `MatMulNBits` takes matrices in the form in which they are kept (`storage`). At accuracy level 4 it rounds the
states to 8 bits, a scale for each block of a row: outlier channels cost digits in their own blocks alone. A model of this one
operator is written here, in the bytes of ONNX's protocol buffers: the package that writes such files would be one more.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from blip2tools.model.quantized.storage import BLOCK

# Numbers of fields and types in onnx.proto, and the versions that every onnxruntime with this operator reads.
_FLOAT, _UINT8, _INT, _EXTERNAL = 1, 2, 2, 1
_IR, _OPSET, _CONTRIB = 8, 17, 1
_QUIET: Final = 3  # errors only, which are raised as well
THREADS: Final = 4  # at most: each session has its own, and there are a hundred
_LEVEL: Final = 4  # states in 8 bits; at the default level products are slower than in float32


class Product:
    """A matrix that onnxruntime has packed.

    Args:
        weight: int8 (out, in / 2), as kept in 4 bits.
        scale: float32 (out, in / BLOCK).

    Raises:
        ImportError: onnxruntime is not installed.
        RuntimeError: it has no such operator, or torch uses more than `THREADS` threads.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        if (threads := torch.get_num_threads()) > THREADS:
            raise RuntimeError(f"a hundred pools of {threads} threads would be too many")
        library: Any = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = (
            False  # or each matrix keeps room for its largest product
        )
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # there is a session for each matrix
        self._outputs = len(weight)
        values = {
            "weight": (weight.detach().contiguous().view(torch.uint8).view(len(weight), -1, BLOCK // 2), _UINT8),
            "scale": (scale.detach().contiguous(), _FLOAT),
        }
        try:
            # A session keeps the bytes of its model: values that stand there would be held beside what is packed of them.
            value_of = library.OrtValue.ortvalue_from_numpy_with_onnx_type
            held = [value_of(tensor.numpy(), kind) for tensor, kind in values.values()]
            options.add_external_initializers(list(values), held)
            model = _model({name: (tuple(tensor.shape), kind) for name, (tensor, kind) in values.items()})
            self._session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, which are no RuntimeError
            raise RuntimeError(f"onnxruntime cannot multiply in 4 bits: {type(error).__name__}") from error

    def __call__(self, states: Tensor) -> Tensor:
        """(R, out) of float32 states (R, in)."""
        states, made = states.contiguous(), torch.empty(len(states), self._outputs)
        binding = self._session.io_binding()
        for bind, name, tensor in ((binding.bind_input, "states", states), (binding.bind_output, "made", made)):
            bind(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)
        return made


def _model(values: dict[str, tuple[tuple[int, ...], int]]) -> bytes:
    """The product alone; shapes and types of the matrix's parts, whose values lie elsewhere."""
    outputs, blocks = values["scale"][0]
    inputs = blocks * BLOCK
    attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": _LEVEL}
    node = b"".join(
        [
            *(_text(1, name) for name in ("states", *values)),
            _text(2, "made"),
            _text(4, "MatMulNBits"),
            *(_bytes(5, _text(1, name) + _number(3, value) + _number(20, _INT)) for name, value in attributes.items()),
            _text(7, "com.microsoft"),
        ]
    )
    graph = b"".join(
        [
            _bytes(1, node),
            _text(2, "product"),
            *(_bytes(5, _tensor(name, *like)) for name, like in values.items()),
            _bytes(11, _value("states", inputs)),
            _bytes(12, _value("made", outputs)),
        ]
    )
    opsets = [_text(1, domain) + _number(2, version) for domain, version in (("", _OPSET), ("com.microsoft", _CONTRIB))]
    return b"".join([_number(1, _IR), _bytes(7, graph), *(_bytes(8, opset) for opset in opsets)])


def _tensor(name: str, shape: tuple[int, ...], kind: int) -> bytes:
    place = _bytes(13, _text(1, "location") + _text(2, "memory"))
    return (
        b"".join(_number(1, size) for size in shape)
        + _number(2, kind)
        + _text(8, name)
        + place
        + _number(14, _EXTERNAL)
    )


def _value(name: str, width: int) -> bytes:
    """Any number of rows of a width."""
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _number(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that another follows."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
