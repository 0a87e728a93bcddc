"""Networks by name, each a `Network` with fresh initial values.

net = fastgd.models.lenet5()
net.fit(X, y, optimizer=fastgd.Adam(1e-3), epochs=10)

`options` are those of `Network`: loss, l2, dtype, seed, backend, num_threads. The default loss is
softmax_cross_entropy. `from_torch` copies the weights of a torch model into one; `gpt2` reads GPT-2."""

from ..core.hints import show_names
from .classifiers import lenet5, mlp, resnet20, small_cnn
from .language import gpt, gpt2, save_gpt2
from .weights_from_torch import from_torch

__all__ = ["from_torch", "gpt", "gpt2", "lenet5", "mlp", "resnet20", "save_gpt2", "small_cnn"]

show_names(__name__)
