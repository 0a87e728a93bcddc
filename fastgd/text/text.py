"""A text as tokens."""

import dataclasses
import functools
import math

from ..core.for_users import ForUsers
from ..data.windows import Windows
from ..errors import check_integer, check_number, value_error
from .errors import TextError
from .vocabulary import Ids, Vocabulary


@dataclasses.dataclass(eq=False)
class Text(ForUsers):
    """A text as tokens, as `read` and `from_string` return it.

    tokens      (n,) uint8, uint16 or int32, the smallest that holds the vocabulary; in memory or in a mapped file
    vocabulary  what the tokens are: `encode`, `decode`; its length is their number. A network stores it as its
                `preprocessing`, and is saved with it
    paths       the files; none for a string
    notes       what a user may want to know: where large texts are stored, ..."""

    tokens: Ids
    vocabulary: Vocabulary
    paths: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    def split(self, fraction: float) -> tuple["Text", "Text"]:
        """Returns (rest, tail): the tail has a `fraction` of the tokens, the last ones. Nothing is copied. Raises
        ValueError unless the fraction lies in (0, 1) and both have tokens."""
        fraction = check_number("fraction", fraction, 0.0, 1.0, low_open=True, high_open=True)
        cut = len(self) - round(fraction * len(self))
        if not 0 < cut < len(self):
            raise value_error("fraction", f"tokens in both parts of {len(self):,}", fraction)
        return self._part(self.tokens[:cut]), self._part(self.tokens[cut:])

    def _part(self, tokens):
        return Text(tokens, self.vocabulary, self.paths, self.notes)

    def windows(self, context: int) -> Windows:
        """Windows of `context` tokens, and for each token the next one, for `fit`. Raises TextError, which names the
        files, if the text is shorter."""
        context = check_integer("context", context, 1)
        if len(self) <= context:
            expected = f"more than {context:,} tokens, for windows of {context:,} (context)"
            raise TextError(", ".join(self.paths) or None, expected, f"{len(self):,}")
        return Windows(self.tokens, context, self.vocabulary)

    @functools.cached_property
    def bytes_per_token(self) -> float:
        """The mean length of a token in UTF-8, in bytes."""
        return self.vocabulary.count_bytes(self.tokens) / len(self)

    def bits_per_byte(self, loss: float) -> float:
        """The mean loss of a token, in nats (cross-entropy), as bits for each byte of the text: loss / (ln 2
        bytes_per_token). Unlike the loss it compares models of different tokens."""
        return float(check_number("loss", loss, 0.0) / (math.log(2) * self.bytes_per_token))

    def __repr__(self) -> str:
        return f"Text({len(self):,} tokens of {self.vocabulary!r})"


def perplexity(loss: float) -> float:
    """exp(loss), for the mean loss of a token in nats (cross-entropy): among so many equally probable tokens the model
    chooses, on average. infinity beyond the largest float."""
    loss = check_number("loss", loss, 0.0)
    return math.exp(loss) if loss < 709 else math.inf
