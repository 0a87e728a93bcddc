"""Named tensors of torch models as arrays: of mappings and of safetensors files, for `fastgd.models.from_torch`. Errors
call what holds them `source`."""

import os
import stat

import numpy as np
import safetensors
from safetensors import SafetensorError

from ..core.files import FOREIGN, as_path
from ..errors import shown, type_error, value_error
from .mapped import check_mapping

# numpy's dtype by the code of a safetensors file. BF16 is the upper half of a float32.
CODES = {
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)},
}  # fmt: skip


def as_numpy(tensor):
    """The numbers of a torch tensor on the CPU, as an array over its memory if numpy has its dtype."""
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()  # numpy has no bfloat16


def as_array(name, value):
    """A tensor of a mapping as an array."""
    if not isinstance(name, str):
        raise type_error("source", "names of tensors", shown(name))
    expected = f"{name!r} as a torch tensor or a numpy array of real numbers"
    if hasattr(value, "detach"):
        try:
            value = as_numpy(value.cpu())
        except (TypeError, RuntimeError) as error:  # sparse, quantized, without storage
            raise type_error("source", expected, f"{type(value).__name__}: {error}") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise type_error("source", expected, shown(value))
    check_mapping(value)
    return value


def read_tensors(path):
    """The tensors of a safetensors file."""
    path = as_path(path, "source")
    expected = "a whole safetensors file"
    if not stat.S_ISREG(os.stat(path).st_mode):  # open() of a pipe may wait for ever
        raise value_error("source", expected, f"{path!r}, which is no regular file")
    with open(path, "rb") as file:
        data = file.read()
    try:
        tensors = safetensors.deserialize(data)
    except SafetensorError as error:
        got = next((format for magic, format in FOREIGN.items() if data.startswith(magic)), f"{error}")
        raise value_error("source", expected, f"{path!r}: {got}") from None
    return {name: _decoded(path, name, tensor) for name, tensor in tensors}


def _decoded(path, name, tensor):
    code = tensor["dtype"]
    if code not in CODES:
        raise type_error("source", f"tensors of {', '.join(CODES)}", f"{name!r} of {code} in {path!r}")
    array = np.frombuffer(tensor["data"], CODES[code])
    if code == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(tensor["shape"])
