"""`Network.generate`: continues a prompt, token after token."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from .._plan import Use
from ..core.random import key_of_layer
from ..errors import check_integer, check_number, shown, type_error, value_error
from .plan import GenerationPlan, Past

if TYPE_CHECKING:
    from ..network import Network

# The most positions of a prompt that are read in one pass, and how many seconds pass between two calls of `stream`.
POSITIONS, STREAM_SECONDS = 64, 0.05
# Tokens before a new one that decide on its text: some tokenizers drop a space at the beginning.
CONTEXT_OF_TEXT = 16
INCOMPLETE = "�"  # at the end of a text whose last character lacks bytes


class Generator:
    """The plans that go on with a sequence of tokens, one sequence at a time."""

    def __init__(self, network):
        self.network, self.context, self.past = network, network.input_shape[0], Past()
        self.decoder, self.prefiller = GenerationPlan(network, 1, self.past, draws=True), None

    def is_current(self):
        """Whether the compiled users' functions are up to date."""
        return self.decoder.is_current()

    def begin(self, prompt, length, scalars):
        """Begins a sequence."""
        self.tokens = np.concatenate([prompt, np.zeros(length, np.int64)])  # of them `n` are known
        self.n = len(prompt)
        self.decoder.begin(self.tokens[self.n :], **scalars)
        self._read(self.tokens[max(0, self.n - self.context) : self.n])

    def _read(self, tokens):
        """Makes these tokens the past, but for the last, which `add` reads."""
        self.past.position[0], earlier = 0, tokens[:-1]
        if not self.past.arrays:  # a layer that looks back keeps something
            self.past.position[0], earlier = len(earlier), earlier[:0]
        if len(earlier) and self.prefiller is None:
            self.prefiller = GenerationPlan(self.network, min(POSITIONS, self.context), self.past)
        for start in range(0, len(earlier), POSITIONS):
            part = earlier[start : start + POSITIONS]
            self.prefiller.buffers["x"][: len(part), 0] = part
            self.prefiller.run_positions(len(part), 1, 0.0)
            self.past.position[0] += len(part)
        self.decoder.buffers["x"][...] = tokens[-1]

    def add(self, seconds):
        """Adds at least one token, and more until the time is over or all are known."""
        if self.past.position[0] == self.context:
            self._read(self.tokens[self.n - max(1, self.context // 2) : self.n])
        room = self.context - int(self.past.position[0])
        before = self.n
        self.n += self.decoder.run_positions(1, min(room, len(self.tokens) - before), seconds)
        if self.tokens[before : self.n].min() < 0:
            raise ArithmeticError("generate: expected finite outputs, got others: some parameters may not be finite")


class _Text:
    """The text of tokens as they come, without characters that are not complete."""

    def __init__(self, vocabulary, tokens, n):
        self.vocabulary, self.tokens, self.begin, self.end = vocabulary, tokens, max(0, n - CONTEXT_OF_TEXT), n
        self.sent = 0  # characters behind the `end` that are out already

    def up_to(self, n, *, is_last):
        """The text from the last call on up to the n-th token."""
        known, whole = (self.vocabulary.decode(self.tokens[self.begin : end]) for end in (self.end, n))
        is_incomplete = whole.endswith(INCOMPLETE) and not is_last
        new = whole[len(known) + self.sent : len(whole) - is_incomplete]
        if is_incomplete:
            self.sent += len(new)
        else:
            self.begin, self.end, self.sent = max(self.begin, self.end - CONTEXT_OF_TEXT), n, 0
        return new


def _check_network(network):
    shape, out = network.input_shape, network.output_shape
    if not network.vocabulary or len(shape) != 1 or len(out) != 2 or out[0] != shape[0]:
        expected = "a network with rows of tokens (T,) and outputs (T, vocabulary)"
        raise ValueError(f"generate: expected {expected}, got one with {shape} and {out}")
    for _, leaf, _ in network.body.leaves("", shape):
        if not leaf.is_causal:
            raise ValueError(f"generate: expected layers whose outputs do not depend on later tokens, got {leaf!r}")


def _check_prompt(network, prompt, tokens):
    """The tokens of a prompt, and its vocabulary if it is a text."""
    vocabulary = None
    if isinstance(prompt, str):
        vocabulary = network.preprocessing
        if not _is_vocabulary(vocabulary):
            raise value_error("prompt", "tokens, since the network has no vocabulary as its preprocessing", "a str")
        try:
            prompt = vocabulary.encode(prompt)
        except ValueError as error:
            raise ValueError(str(error).replace("argument 'text'", "argument 'prompt'")) from None
    try:
        ids = np.asarray(prompt)
    except ValueError:  # rows of different lengths
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        raise type_error("prompt", "a str or a sequence of tokens, which are integers", shown(prompt))
    if not len(ids):
        raise value_error("prompt", "at least one token", "none")
    if ids.min() < 0 or ids.max() >= tokens:
        i = int(np.argmax((ids < 0) | (ids >= tokens)))
        raise value_error("prompt", f"tokens in [0, {tokens - 1}]", f"{ids[i]} at index {i}")
    return ids.astype(np.int64), vocabulary


@overload
def generate(
    self: "Network",
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stream: Callable[[str], object] | None = None,
) -> str: ...
@overload
def generate(
    self: "Network",
    prompt: Sequence[int] | npt.NDArray[np.integer[Any]],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stream: Callable[[npt.NDArray[np.int64]], object] | None = None,
) -> npt.NDArray[np.int64]: ...
def generate(
    self: "Network",
    prompt: str | Sequence[int] | npt.NDArray[np.integer[Any]],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stream: Callable[[Any], Any] | None = None,
) -> Any:
    """The `length` tokens with which a language model continues a prompt: a str if the prompt is one, else an array of
    integers. Each is drawn from softmax(z / temperature), where z are the outputs at the token before.

    The network must have rows of tokens (T,), outputs (T, vocabulary), and layers that look at no later token, as
    `models.gpt` has. A cache holds what they need of earlier tokens, the keys and values of attention and the states of
    recurrent layers, so a token costs one position. A sequence that is longer than T goes on from its last T / 2
    tokens, without those before them. The tokens do not depend on the number of threads.

    prompt: text, if `preprocessing` is its vocabulary, or tokens; at least one token.
    temperature: >= 0; 0 takes the most probable token.
    top_k: draw from the k most probable tokens (Fan et al. 2018, arXiv:1805.04833); None is all.
    top_p: draw from the fewest most probable tokens whose probabilities, of those that top_k leaves, sum to this, in
        (0, 1] (Holtzman et al. 2020, arXiv:1904.09751); None is all.
    seed: int >= 0. The same seed gives the same tokens.
    stream: a function that gets the new text, or tokens, 20 times a second, or after each token that takes longer. If
        it returns True, generation stops. It may evaluate the network, but not train it.

    Raises TypeError or ValueError that names the argument, and ArithmeticError if an output is not finite."""
    _check_network(self)
    length, seed = check_integer("length", length, 1), check_integer("seed", seed, 0)
    temperature = check_number("temperature", temperature, 0.0)
    kept = 0 if top_k is None else check_integer("top_k", top_k, 1)
    mass = 1.0 if top_p is None else check_number("top_p", top_p, 0.0, 1.0, low_open=True)
    if not (stream is None or callable(stream)):
        raise type_error("stream", "a function of the new text, or None", shown(stream))
    size = min(self.vocabulary, self.output_shape[-1], _size_of(self.preprocessing))
    ids, vocabulary = _check_prompt(self, prompt, size)
    scalars = {"tokens": size, "temperature": temperature, "top_k": kept, "top_p": mass, "key": key_of_layer(seed, "0")}
    lock, known = self.executor.lock, len(ids)
    with lock.use(Use.EVALUATE):
        sequence = self.executor.take_generator(Generator)
        sequence.begin(ids, length, {name: float(value) for name, value in scalars.items()})
        text = None if vocabulary is None else _Text(vocabulary, sequence.tokens, known)
        while known < len(sequence.tokens):
            sequence.add(STREAM_SECONDS)
            new, known = sequence.tokens[known : sequence.n], sequence.n
            if stream is None:
                continue
            shown_now = new.copy() if text is None else text.up_to(known, is_last=known == len(sequence.tokens))
            with lock.lend(Use.BORROW):
                if len(shown_now) and stream(shown_now) is True:
                    break
        self.executor.keep_generator(sequence)
    if vocabulary is None:
        return sequence.tokens[len(ids) : known].copy()
    return _Text(vocabulary, sequence.tokens, len(ids)).up_to(known, is_last=True)  # whenever parts of it were streamed


def _size_of(preprocessing):
    """The number of tokens of a vocabulary; infinite for anything else."""
    return len(preprocessing) if _is_vocabulary(preprocessing) else math.inf


def _is_vocabulary(preprocessing):
    if preprocessing is None:
        return False
    from ..text import Vocabulary

    return isinstance(preprocessing, Vocabulary)
