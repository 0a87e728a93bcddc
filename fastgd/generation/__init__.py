"""Generation: a network continues a sequence of tokens, one after the other, and keeps what attention needs of the
earlier ones."""
