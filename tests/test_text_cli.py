"""The command line on texts: from a file to a model and its figures."""

import json
import math
import pathlib
import re

import numpy as np
import pytest

import fastgd
from fastgd import Dense, Embedding, Network, text
from fastgd.cli import parser as cli
from fastgd.cli import texts

SENTENCE = "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.\n"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A text in the working folder; networks have no attention, for speed."""

    def gpt(vocabulary, context, layers, heads, width, dropout, **options):
        assert (layers, heads, dropout) == (1, 2, 0.0)
        hidden = [Embedding(vocabulary, width), Dense(width, "tanh"), Dense(vocabulary)]
        return Network((context,), hidden, **{"loss": "softmax_cross_entropy", **options})

    monkeypatch.setattr(fastgd.models, "gpt", gpt, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(SENTENCE * 60, encoding="utf-8")
    return tmp_path / "book.txt"


def call(capsys, *arguments):
    """Runs the command line; returns exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.main([str(one) for one in arguments])
    return code, *capsys.readouterr()


OPTIONS = ("--layers", 1, "--heads", 2, "--width", 12, "--context", 16, "--epochs", 3)


def test_from_a_text_to_a_model_and_its_figures(book, capsys):
    code, out, err = call(capsys, "train", book, *OPTIONS)
    assert code == 0, err
    assert f"book.txt: {60 * len(SENTENCE):,} tokens, {len(set(SENTENCE))} different ones" in out
    assert "AdamW(cosine(learning_rate=0.001" in out
    assert "tokens/s" in err
    network, optimizer = fastgd.load("book.safetensors")
    assert optimizer.clip_norm == 1.0
    assert optimizer.schedule.warmup_steps == round(0.15 * -(-network.history.rows[0] // 32))
    found = text.read(book)
    assert network.preprocessing == found.vocabulary
    rest, tail = found.split(0.1)
    assert network.history.rows[0] == rest.windows(16).per_epoch
    windows = tail.windows(16)
    loss = network.loss(windows.x, windows.y)
    assert network.history.validation_loss[-1] == loss
    figures = dict(re.findall(r"^validation (perplexity|bits a byte) (.*)$", out, re.MULTILINE))
    assert float(figures["perplexity"]) == pytest.approx(math.exp(loss), abs=1e-4)
    assert float(figures["bits a byte"]) == pytest.approx(tail.bits_per_byte(loss), abs=1e-4)

    (book.parent / "other.md").write_text(SENTENCE * 3, encoding="utf-8")
    code, out, err = call(capsys, "evaluate", "book.safetensors", "other.md", "--json")
    assert code == 0, err
    values = json.loads(out)
    ids = network.preprocessing.encode(SENTENCE * 3)
    count = (len(ids) - 1) // 16
    x, y = ids[: 16 * count].reshape(-1, 16), ids[1 : 16 * count + 1].reshape(-1, 16)
    assert values["tokens"] == 16 * count
    assert values["loss"] == pytest.approx(network.loss(x, y), rel=1e-6)
    assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
    bytes_per_token = len(SENTENCE.encode()) / len(SENTENCE)
    assert values["bits a byte"] == pytest.approx(values["loss"] / math.log(2) / bytes_per_token)
    code, out, _ = call(capsys, "evaluate", "book.safetensors", "other.md")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["tokens", "loss", "perplexity", "bits a byte"]

    code, out, _ = call(capsys, "info", "book.safetensors")
    assert (code, out.splitlines()[-1]) == (0, f"Characters({len(set(SENTENCE))})")
    code, out, _ = call(capsys, "export", "book.safetensors", "book.onnx")
    assert (code, "inputs ['x']" in out) == (0, True)


def test_a_run_goes_on(book, capsys):
    whole = ("train", book, *OPTIONS, "--quiet", "--save")
    assert call(capsys, *whole, "whole.safetensors")[0] == 0
    assert call(capsys, *whole, "part.safetensors", "--resume")[0] == 0
    code, out, _ = call(capsys, *whole, "part.safetensors", "--resume")
    assert (code, "continuing part.safetensors" in out) == (0, True)
    nets = [fastgd.load(f"{name}.safetensors")[0] for name in ("whole", "part")]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    book.write_text(SENTENCE * 59 + SENTENCE.swapcase(), encoding="utf-8")
    code, _, err = call(capsys, *whole, "part.safetensors", "--resume")
    assert (code, "--resume needs the data" in err) == (1, True)


def test_a_run_goes_on_to_more_epochs(book, capsys):
    """The warm-up, by default a share of the epochs, follows their new number."""
    assert call(capsys, "train", book, *OPTIONS, "--quiet")[0] == 0
    code, _, err = call(capsys, "train", book, *OPTIONS, "--epochs", 4, "--quiet", "--resume")
    assert code == 0, err
    network, optimizer = fastgd.load("book.safetensors")
    assert (network.epochs, optimizer.schedule.warmup_steps) == (4, round(0.2 * optimizer.schedule.total_steps / 4))
    saved = pathlib.Path("book.safetensors").read_bytes()
    code, _, err = call(capsys, "train", book, *OPTIONS, "--epochs", 3, "--quiet", "--resume")
    assert (code, "'--epochs': expected at least 4, the epochs done in book.safetensors" in err) == (1, True), err
    assert pathlib.Path("book.safetensors").read_bytes() == saved
    code, _, err = call(capsys, "train", book, *OPTIONS[:-2], "--quiet", "--resume")
    assert (code, "--epochs: give their number, since the run" in err, "planned for 4" in err) == (1, True, True)


def test_several_texts_are_one(book, capsys):
    """In their order, as if they were one file."""
    (book.parent / "other.md").write_text("Öl?" * 9, encoding="utf-8")
    (book.parent / "whole.txt").write_text(SENTENCE * 60 + "Öl?" * 9, encoding="utf-8")
    code, out, err = call(capsys, "train", "book.txt", "other.md", *OPTIONS, "--quiet", "--plot", "loss.png")
    assert (code, f"book.txt + other.md: {60 * len(SENTENCE) + 27:,} tokens" in out) == (0, True), err
    assert call(capsys, "train", "whole.txt", *OPTIONS, "--quiet")[0] == 0
    nets = [fastgd.load(f"{name}.safetensors")[0] for name in ("book", "whole")]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    (book.parent / "a.csv").write_text("a,b\n1,2\n")
    for paths, message in (
        (
            ("book.txt", "a.csv"),
            "'DATA': expected one path, or several texts, got 2 paths, of which 'a.csv' is no text",
        ),
        (("digits", "book.txt"), "2 paths, of which 'digits' is no text"),
        (("book.txt", "none.txt"), "none.txt"),
    ):
        code, _, err = call(capsys, "train", *paths, "--save", "new")
        assert (code, message in err) == (1, True), err
    code, _, err = call(capsys, "train", "book.txt", "other.md", "--save", "other.md", "--overwrite")
    assert (code, "'--save': expected another file than DATA" in err) == (1, True)


def test_bytes_of_any_file(book, capsys):
    data = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    (book.parent / "song.bin").write_bytes(data)
    options = (*OPTIONS, "--tokens", "bytes", "--quiet")
    code, out, err = call(capsys, "train", "song.bin", *options)
    assert (code, "song.bin: 2,000 tokens, 256 different" in out) == (0, True), err
    code, out, err = call(capsys, "evaluate", "song.bin.safetensors", "song.bin", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values["bits a byte"] == pytest.approx(values["loss"] / math.log(2))
    code, out, err = call(capsys, "train", "song.bin", "book.txt", *options, "--save", "both")
    assert (code, f"{2000 + 60 * len(SENTENCE.encode()):,} tokens" in out) == (0, True), err


def test_other_tokens_and_names(book, capsys):
    """--tokens makes any file a text; a folder of texts is one."""
    code, out, err = call(capsys, "train", book, *OPTIONS, "--tokens", "bytes", "--validation", 0, "--quiet")
    assert code == 0, err
    assert "256 different ones" in out
    assert "validation" not in out.split("\n", 3)[3]
    assert fastgd.load("book.safetensors")[0].preprocessing == text.Bytes()
    (book.parent / "data.csv").write_text("a,b\n" * 100)
    code, out, err = call(capsys, "train", "data.csv", *OPTIONS, "--tokens", "characters", "--quiet")
    assert (code, "400 tokens, 4 different ones" in out) == (0, True), err
    (book.parent / "books").mkdir()
    for name in ("1.txt", "2.txt"):
        (book.parent / "books" / name).write_text(SENTENCE * 20)
    code, out, err = call(capsys, "train", "books", *OPTIONS, "--quiet")
    assert (code, f"{40 * len(SENTENCE):,} tokens" in out) == (0, True), err
    code, out, err = call(capsys, "find-lr", "books", *OPTIONS[:-2], "--steps", 10)
    assert (code, "suggestion" in out) == (0, True), err


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", True),
        ("a.MD", b"", True),
        ("README", b"text\n\f\r\n\t", True),
        ("cut", "ä".encode() * 2**12, True),
        ("cut1", b"a" + "ä".encode() * 2**12, True),
        ("empty", b"", False),
        ("binary", b"a\0b", False),
        ("latin", b"caf\xe9 ole", False),
        ("a.csv", b"a,b", False),
        ("a.png", b"a", False),
        ("a.npz", b"a", False),
    ],
)
def test_what_is_a_text(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert texts.is_text(str(tmp_path / name)) is expected


def test_which_folders_are_texts(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    assert not texts.is_text(str(folder))
    (folder / "1.txt").write_text("a")
    (folder / ".git").mkdir()
    assert texts.is_text(str(folder))
    (folder / "cats").mkdir()
    assert not texts.is_text(str(folder))
    assert not texts.is_text(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "a"], "'--target': expected no such option for text"),
        (["--model", "lenet5"], "'--model': expected no such option for text"),
        (["--label-smoothing", 0.1], "'--label-smoothing': expected no such option for text"),
        (["--task", "regression"], "'--task': expected no such option for text"),
        (["--context", 5000], "book.txt: expected more than 5,000 tokens, for windows of 5,000 (context), got 3,480; "),
        (["--context", 0], "'context'"),
        (["--tokens", "words"], "'tokens'"),
        (["--tokens", "none.json"], "none.json"),
    ],
)  # fmt: skip
def test_errors_are_one_line(arguments, message, book, capsys):
    code, _, err = call(capsys, "train", "book.txt", *arguments)
    assert (code, len(err.splitlines())) == (1, 1)
    assert message in err


def test_models_of_text_and_other_data_do_not_mix(book, capsys):
    assert call(capsys, "train", book, *OPTIONS, "--quiet")[0] == 0
    (book.parent / "data.csv").write_text("a,b\n1,2\n")
    (book.parent / "new.txt").write_text("Xa")
    for arguments, message in (
        (("predict", "book.safetensors", book), "'MODEL': expected a model of a table, arrays or images, got book"),
        (("evaluate", "book.safetensors", "data.csv"), "'DATA': expected a text, since book.safetensors"),
        (("evaluate", "book.safetensors", "new.txt"), "new.txt, line 1, byte 0: expected characters of"),
        (("train", "digits", "--context", 8), "'--context': expected no such option for data other than text"),
    ):
        code, _, err = call(capsys, *arguments)
        assert (code, message in err) == (1, True), err


def test_defaults_of_other_data_are_what_they_were(book, capsys):
    code, out, _ = call(capsys, "train", "digits", "--epochs", 1, "--plot", "", "--quiet")
    assert (code, "Adam(cosine(learning_rate=0.002, total_steps=45, warmup_steps=0" in out) == (0, True)


def test_samples_and_generation(book, capsys):
    code, out, err = call(capsys, "train", book, *OPTIONS, "--sample", 30)
    assert code == 0, err
    samples = re.findall(r"^--- after epoch (\d): ", out, re.MULTILINE)
    assert samples == ["1", "2", "3"]
    network, _ = fastgd.load("book.safetensors")
    code, out, err = call(capsys, "generate", "book.safetensors", "--prompt", "Zwölf", "--length", 40, "--seed", 3)
    assert code == 0, err
    assert out == "Zwölf" + network.generate("Zwölf", 40, seed=3).removesuffix("\n") + "\n"
    assert re.fullmatch(r"40 tokens in [\d.]+ s, [\d,]+ a second\n", err)
    options = "--temperature", 0.5, "--top-k", 3, "--top-p", 0.9
    code, out, err = call(capsys, "generate", "book.safetensors", "--length", 20, *options)
    expected = network.generate("\n", 20, temperature=0.5, top_k=3, top_p=0.9)
    assert out == expected.removesuffix("\n") + "\n"
    assert "--- after" not in call(capsys, "train", book, *OPTIONS, "--sample", 0, "--overwrite", "--quiet")[1]
    for wrong, message in (
        (("--prompt", "Zwölf!"), "'prompt': expected characters of"), (("--length", 0), "length"),
        (("--top-p", 0), "top_p"), (("--prompt", ""), "at least one token"),
    ):  # fmt: skip
        code, out, err = call(capsys, "generate", "book.safetensors", *wrong)
        assert (code, out) == (1, ""), wrong
        assert message in err, err


def test_only_models_of_text_generate(tmp_path, capsys):
    Network(3, [Dense(2)], loss="mse").save(tmp_path / "other.safetensors")
    code, _, err = call(capsys, "generate", tmp_path / "other.safetensors")
    assert code == 1
    assert "'MODEL': expected a model of text, got" in err


def test_samples_need_no_token_for_a_new_line(book, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"Zwölf": 0, "Deich": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save("words.json")
    code, out, err = call(capsys, "train", book, *OPTIONS, "--tokens", "words.json")
    assert code == 0, err
    assert "--- after epoch 3: " in out
    assert call(capsys, "generate", "book.safetensors", "--length", 5)[0] == 0
