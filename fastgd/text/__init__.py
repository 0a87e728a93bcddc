"""Text as tokens for a language model: characters, bytes, or the pieces of a tokenizer (extra `text`).

text = fastgd.text.read("book.txt")  # tokens="bytes", or a tokenizer.json; from_string("...") takes a string
training, held_out = text.split(0.1)  # the tail is held out
net = models.gpt(len(text.vocabulary), 128, layers=4, heads=4, width=128)  # of fastgd
net.preprocessing = text.vocabulary  # saved and loaded with the network
net.fit(training.windows(128), validation_data=held_out.windows(128))
held_out.bits_per_byte(net.history.validation_loss[-1])
"""

from ..core.hints import show_names
from ..data.windows import Windows
from .errors import TextError
from .reading import from_string, read
from .text import Text, perplexity
from .vocabulary import Bytes, Characters, Tokenizer, Vocabulary

__all__ = [
    "Bytes", "Characters", "Text", "TextError", "Tokenizer", "Vocabulary", "Windows", "from_string", "perplexity",
    "read",
]  # fmt: skip

show_names(__name__)
