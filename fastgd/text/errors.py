"""The error that names file and position of text that cannot be used."""


class TextError(ValueError):
    """A text cannot be used. `path` is the file, or None for a string; `line`, counted from 1, and `byte`, from 0, say
    where; both may be None."""

    def __init__(
        self, path: str | None, expected: str, got: str, *, line: int | None = None, byte: int | None = None
    ) -> None:
        super().__init__(path, expected, got)
        self.path, self.expected, self.got, self.line, self.byte = path, expected, got, line, byte

    def __str__(self) -> str:
        path = self.path
        where = ["the string" if path is None else path if path.isprintable() else repr(path)]
        where += [] if self.line is None else [f"line {self.line:,}"]
        where += [] if self.byte is None else [f"byte {self.byte:,}"]
        return f"{', '.join(where)}: expected {self.expected}, got {self.got}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args, vars(self)
