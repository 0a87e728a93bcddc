"""Pictures of language models."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._plan import Use
from ..data.samples import check_inputs, check_rows
from ..engine.plan import Plan
from ..errors import check_integer, shown, type_error, value_error
from ..layers import SelfAttention
from ..network import Network
from ..text import Vocabulary
from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 4  # panels beside each other where each has labels
TOKEN, LEAST, MOST = 0.14, 1.6, 5.0  # inches of a token along an axis, and of a panel
SMALL = 1.1  # inches of a panel without labels
LABELLED = 48  # up to so many tokens each has a label
LONGEST = 10  # letters of the label of a token
# Signs for characters that would be invisible.
SIGNS = str.maketrans({" ": "\u2423", "\n": "\u21b5", "\t": "\u2192"})  # open box, arrows
SAMPLE_LETTERS, SAMPLE_LINES, SAMPLE_LINE = 84, 3, 0.16  # of a text below a curve: letters a line, lines, inches a line


@np.errstate(all="ignore")
def plot_attention(
    network: Network,
    tokens: "str | npt.ArrayLike",
    layer: int | None = None,
    *,
    labels: Sequence[Any] | None = None,
    title: str | None = None,
) -> "Figure":
    """What each position of a text attends to: for each head the weights softmax(q k^T / sqrt(d)) in evaluation, a row
    for each position that looks and a column for each position that is looked at; what a causal layer hides is blank.
    Vaswani et al. 2017, arXiv:1706.03762.

    network: one whose input are tokens (T,), with attention. tokens: a text, if the vocabulary is its `preprocessing`;
        or token ids (n,). If there are fewer than T, the layers must be causal or have a `padding`.
    layer: the number of a layer with attention, 1 for the first: a panel with labels for each of its heads. None draws
        all layers and heads as small panels; a network with one such layer is drawn as if it had been named.
    labels: a text for each token; None is what the `preprocessing` decodes, else the ids.

    Raises TypeError or ValueError that names the argument. The network does not change."""
    if not isinstance(network, Network):
        raise type_error("network", "a fastgd.Network", shown(network))
    attending = [(path, one) for path, one, _ in network.body.leaves("", network.input_shape) if _attends(one)]
    if not attending or not network.vocabulary or len(network.input_shape) != 1:
        raise value_error("network", "a network with attention whose input are tokens (T,)", repr(network))
    if layer is None and len(attending) == 1:
        layer = 1
    if layer is not None and check_integer("layer", layer, 1) > len(attending):
        raise value_error("layer", f"at most {len(attending)}, the layers with attention", layer)
    row, n = _row(network, tokens, [one for _, one in attending])
    texts = _labels(network, row[:n], labels)
    chosen = list(enumerate(attending, 1)) if layer is None else [(layer, attending[layer - 1])]
    weights = {number: _weights(*one)[:, :n, :n] for number, one in _queries_and_keys(network, row, chosen)}
    return _grid(weights, title) if layer is None else _of_layer(weights[layer], layer, texts, title)


def _attends(layer):
    return isinstance(layer, SelfAttention)


def _row(network, tokens, layers):
    """The tokens as a row of the network, filled up, and how many they are."""
    (t,) = network.input_shape
    if isinstance(tokens, str):
        if not isinstance(network.preprocessing, Vocabulary):
            raise value_error("tokens", "ids, since the network has no vocabulary (preprocessing)", shown(tokens))
        tokens = network.preprocessing.encode(tokens)
    given = np.asarray(tokens)
    if given.ndim != 1 or not 1 <= len(given) <= t:
        raise value_error("tokens", f"from 1 to {t} tokens", shown(tokens if given.ndim != 1 else given))
    fill = next((one.padding for one in layers if one.padding is not None), None)
    if len(given) < t and not all(one.is_causal or one.padding == fill is not None for one in layers):
        raise value_error("tokens", f"{t} tokens, since not all layers are causal or have a padding", len(given))
    row = np.concatenate([given, np.full(t - len(given), fill or 0, given.dtype)])
    checked = check_rows("tokens", row[None], network.input_shape)
    check_inputs("tokens", checked, network)
    return checked[0], len(given)


def _labels(network, ids, given):
    """A short text for each token."""
    if given is None:
        vocabulary = network.preprocessing
        is_known = isinstance(vocabulary, Vocabulary)
        given = [vocabulary.decode(np.array([i], np.int64)) if is_known else str(int(i)) for i in ids]
    elif isinstance(given, str | Mapping) or not hasattr(given, "__len__") or len(given) != len(ids):
        raise value_error("labels", f"a text for each of {len(ids)} tokens", shown(given))
    texts = [str(one).translate(SIGNS) for one in given]
    return [one if len(one) <= LONGEST else f"{one[: LONGEST - 1]}…" for one in texts]


def _queries_and_keys(network, row, chosen):
    """A list of (number, (q, k, hidden)) of layers with attention for a row: q and k (heads, T, d), float64; hidden
    (T, T) is True where a position does not see another one."""
    found = []
    with network.executor.lock.use(Use.EVALUATE):
        # A plan whose backward pass may be repeated keeps what that reads, such as qkv.
        plan = Plan(network, 1, network.loss_function.kernels[0], training=False, to_input=True, backend="numpy")
        plan.set_minibatch(row[None].astype(network.dtype))
        plan.run("forward")
        for number, (path, layer) in chosen:
            qkv = plan.rows_of(f"qkv{path}")[0].astype(np.float64)
            t, columns = qkv.shape
            q, k, _ = qkv.reshape(t, 3, layer.heads, columns // 3 // layer.heads).transpose(1, 2, 0, 3)
            hidden = np.triu(np.ones((t, t), bool), 1) if layer.is_causal else np.zeros((t, t), bool)
            if layer.padding is not None:
                hidden |= row == layer.padding
            found.append((number, (q, k, hidden)))
    return found


def _weights(q, k, hidden):
    """softmax(q k^T / sqrt(d)) for each head, (heads, T, T); NaN where a position is hidden."""
    scores = np.where(hidden, -np.inf, q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2]))
    e = np.exp(scores - scores.max(axis=2, keepdims=True))
    return np.where(hidden, np.nan, e / e.sum(axis=2, keepdims=True))


# ---- drawing


def _draw(panel, weights):
    from matplotlib.colors import PowerNorm

    panel.set_facecolor("#eeeeee")
    return panel.imshow(weights, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")


def _of_layer(weights: npt.NDArray[np.float64], number: int, labels: list[str], title: str | None) -> "Figure":
    """A panel with labels for each head of a layer."""
    heads, n = weights.shape[:2]
    side = min(max(TOKEN * n, LEAST), MOST)
    across = min(heads, ACROSS)
    down = math.ceil(heads / across)
    letters = 0.075 * max(map(len, labels))
    rotation = 90 if max(map(len, labels)) > 1 else 0
    figure = new_figure(across * (side + 0.15) + letters + 1.5, down * (side + 0.35) + letters + 0.9)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    every = math.ceil(n / LABELLED)
    size = min(7.0, 64 * side * every / n)  # points: 72 an inch, and a little room
    for i, panel in enumerate(panels.flat):
        if i >= heads:
            panel.set_visible(False)
            continue
        drawn = _draw(panel, weights[i])
        panel.set_title(f"head {i + 1}", fontsize="small")
        ticks = range(0, n, every)
        texts = [labels[j] for j in ticks]
        panel.set_xticks(ticks, texts, rotation=rotation, fontsize=size, family="monospace", parse_math=False)
        if not rotation:  # letters on one line
            panel.tick_params(axis="x", pad=size + 2)
            for text in panel.get_xticklabels():
                text.set_verticalalignment("baseline")
        panel.set_yticks(ticks, texts, fontsize=size, family="monospace", parse_math=False)
        # Only panels with none below them name the tokens.
        panel.tick_params(labelleft=i % across == 0, labelbottom=i + across >= heads)
    figure.colorbar(drawn, ax=panels, label="weight (square-root scale)", shrink=0.8)
    figure.supxlabel("token looked at", fontsize="medium")
    figure.supylabel("token that looks", fontsize="medium")
    figure.suptitle(title or f"Attention of layer {number}", parse_math=False)
    return figure


def _grid(weights: dict[int, npt.NDArray[np.float64]], title: str | None) -> "Figure":
    """A small panel for each layer (from top to bottom) and each head."""
    most = max(len(one) for one in weights.values())
    figure = new_figure(most * (SMALL + 0.1) + 1.6, len(weights) * (SMALL + 0.1) + 1.0)
    panels = figure.subplots(len(weights), most, squeeze=False)
    for row, (number, of_layer) in zip(panels, weights.items(), strict=True):
        for i, panel in enumerate(row):
            panel.set(xticks=(), yticks=())
            panel.set_visible(i < len(of_layer))
            if i < len(of_layer):
                drawn = _draw(panel, of_layer[i])
            if number == min(weights):
                panel.set_title(f"head {i + 1}", fontsize="small")
        row[0].set_ylabel(f"layer {number}", fontsize="small")
    figure.colorbar(drawn, ax=panels, label="weight (square-root scale)", shrink=min(1.0, 3 / len(weights)))
    figure.supxlabel("token looked at", fontsize="medium")
    figure.supylabel("token that looks", fontsize="medium")
    figure.suptitle(title or "Attention by layer and head", parse_math=False)
    return figure


# ---- samples of text


def check_samples_of_text(samples: Any, epochs: int) -> dict[int, str]:
    """Samples by epoch, ascending. Raises TypeError or ValueError unless they are texts of epochs of a history."""
    if not isinstance(samples, Mapping) or not all(isinstance(text, str) for text in samples.values()):
        raise type_error("samples", "a dict of texts by epoch, {1: 'the cat ...', ...}", shown(samples))
    for epoch in samples:
        if check_integer("epoch of samples", epoch, 1) > epochs:
            raise value_error("samples", f"epochs from 1 to {epochs}", epoch)
    return dict(sorted(samples.items()))


def add_samples(figure: "Figure", axes: "Axes", losses: Sequence[float], samples: dict[int, str]) -> None:
    """Marks epochs on a curve by numbers, and writes the text of each below the axes; the figure grows."""
    texts = []
    for number, (epoch, text) in enumerate(samples.items(), 1):
        if math.isfinite(losses[epoch - 1]):
            axes.annotate(
                str(number), (epoch, losses[epoch - 1]), ha="center", va="center", fontsize=8, color="white",
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": "black", "linewidth": 0}, zorder=5,
            )  # fmt: skip
        lines = textwrap.wrap(text.replace("\n", f"{SIGNS[ord(chr(10))]} "), SAMPLE_LETTERS)
        if len(lines) > SAMPLE_LINES:
            lines = [*lines[: SAMPLE_LINES - 1], f"{lines[SAMPLE_LINES - 1][: SAMPLE_LETTERS - 1]}…"]
        head = f"{number}  epoch {epoch}, loss {losses[epoch - 1]:.3g}"
        texts.append("\n    ".join([head, *lines]))
    text = "\n".join(texts)
    width, height = figure.get_size_inches()
    figure.set_size_inches(max(width, 7.2), height + SAMPLE_LINE * (text.count("\n") + 2))
    axes.annotate(
        text, (0, 0), (0, -46), xycoords="axes fraction", textcoords="offset points", va="top", ha="left",
        fontsize=8, family="monospace", linespacing=1.3, parse_math=False, annotation_clip=False,
    )  # fmt: skip
