"""Text as tokens: reading, vocabularies, stored tokens, what a network keeps of them, and errors."""

import json
import math
import os
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

import fastgd
from fastgd import Dense, Reshape, text
from fastgd.text import Bytes, Characters, TextError, Tokenizer, cache, read, reading, vocabulary

POEM = "Ein Rabe saß,\n  übermüdet, 3 €\nauf dem Dach 😀.\n\nKrah! rief er,\nund das war alles.\n" * 3


@pytest.fixture
def poem(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_bytes(POEM.encode())
    return path


@pytest.fixture(scope="module")
def bpe():
    """A byte-level BPE tokenizer, as GPT-2's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator([POEM], trainer)
    return made


@pytest.fixture(params=["characters", "bytes", "tokenizer"])
def tokens(request, bpe):
    """What `read` takes."""
    return bpe if request.param == "tokenizer" else request.param


def network(size, T=8, **options):
    layers = [Reshape((T, 1)), Dense(4, "tanh"), Dense(size)]
    return fastgd.Network((T,), layers, loss="softmax_cross_entropy", **options)


# ---- reading


@pytest.mark.parametrize("string", [POEM, POEM * 2000, "\ufeff" + POEM])
def test_a_string_has_the_tokens_of_a_file_of_it(string, tokens, tmp_path):
    path = tmp_path / "s.txt"
    path.write_bytes(string.encode())
    found, of_file = text.from_string(string, tokens), read(path, tokens)
    np.testing.assert_array_equal(found.tokens, of_file.tokens)
    assert found.tokens.dtype == of_file.tokens.dtype
    assert not found.tokens.flags.writeable
    assert (found.vocabulary, found.notes, found.paths) == (of_file.vocabulary, of_file.notes, [])
    np.testing.assert_array_equal(text.from_string(POEM, found.vocabulary).tokens, found.vocabulary.encode(POEM))
    assert len(found.split(0.5)[1].windows(5).x) == len(of_file.split(0.5)[1].windows(5).x)


def test_strings_that_are_no_text():
    known = Characters("\nab")
    for string, tokens, message in (
        ("", "bytes", "the string: expected text, got an empty string"),
        ("\ufeff", "characters", "the string: expected text, got an empty string"),
        ("aaa", "characters", "the string: expected text of at least 2 different characters, got 1"),
        ("a\né\ud800", "bytes", r"the string, line 2, byte 4: expected characters that UTF-8 has, got '\ud800'"),
        ("é", known, "the string, line 1, byte 0: expected characters of '\\nab' (with tokens="),
        ("\ufeffaé", known, "the string, line 1, byte 4: expected characters of '\\nab' (with tokens="),
        ("\ufeffa\ud800", "bytes", r"the string, line 1, byte 4: expected characters that UTF-8 has"),
    ):
        with pytest.raises(TextError) as raised:
            text.from_string(string, tokens)
        assert raised.value.path is None
        assert str(raised.value).startswith(message)
    with pytest.raises(TypeError, match="^argument 'string': expected a str .*read takes.*b'ab'"):
        text.from_string(b"ab")
    with pytest.raises(ValueError, match="^argument 'tokens'"):
        text.from_string("ab", "words")
    with pytest.raises(TextError, match="^the string: expected more than 5 tokens"):
        text.from_string("abcab").windows(5)


def test_what_is_read_is_what_was_written(poem, tokens):
    found = read(poem, tokens)
    assert found.vocabulary.decode(found.tokens) == POEM
    np.testing.assert_array_equal(found.vocabulary.encode(POEM), found.tokens)
    assert found.tokens.max() < len(found.vocabulary)
    assert not found.tokens.flags.writeable
    assert found.paths == [str(poem)]
    assert found.notes == []
    assert found.bytes_per_token == len(POEM.encode()) / len(found)
    assert found.vocabulary.decode([]) == ""
    assert len(found.vocabulary.encode("")) == 0


def test_vocabularies(poem, bpe):
    characters, by_bytes, pieces = (read(poem, tokens) for tokens in ("characters", "bytes", bpe))
    assert characters.vocabulary.characters == "".join(sorted(set(POEM)))
    np.testing.assert_array_equal(by_bytes.tokens, np.frombuffer(POEM.encode(), np.uint8))
    np.testing.assert_array_equal(pieces.tokens, bpe.encode(POEM).ids)
    assert [found.tokens.dtype for found in (characters, by_bytes, pieces)] == [np.uint8, np.uint8, np.uint16]
    assert len(pieces) < len(characters) < len(by_bytes)
    assert repr(pieces) == f"Text({len(pieces):,} tokens of Tokenizer({bpe.get_vocab_size()}))"


def test_tokens_take_the_fewest_bytes(tmp_path):
    for size, dtype in ((256, np.uint8), (257, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32)):
        characters = "".join(map(chr, range(2**16, 2**16 + size)))
        (tmp_path / "a.txt").write_text(characters, encoding="utf-8")
        found = read(tmp_path / "a.txt")
        assert found.tokens.dtype == dtype
        np.testing.assert_array_equal(found.tokens, np.arange(size))
        assert found.bytes_per_token == 4


def test_several_files_are_one_text(tmp_path, tokens):
    for name, part in (("b.txt", POEM), ("a.TXT", "\ufeffNie "), (".c.txt", "?"), ("d.md", "!"), ("e.pdf", "?")):
        (tmp_path / name).write_text(part, encoding="utf-8")
    found = read(tmp_path, tokens)
    assert found.paths == [str(tmp_path / name) for name in ("a.TXT", "b.txt", "d.md")]
    assert found.vocabulary.decode(found.tokens) == "Nie " + POEM + "!"
    assert found.notes == ["ignored: e.pdf"]
    found = read([tmp_path / "d.md", str(tmp_path / "b.txt")], tokens)
    assert found.vocabulary.decode(found.tokens) == "!" + POEM


def test_a_mark_in_front_is_left_out_and_line_ends_stay(tmp_path, tokens):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    found = read(tmp_path / "a.txt", tokens)
    assert found.vocabulary.decode(found.tokens) == "one\r\ntwo\rthree\n"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_how_a_file_is_cut_into_blocks_does_not_matter(size, poem, tokens, monkeypatch):
    """Also in the middle of a character."""
    whole = read(poem, tokens)
    monkeypatch.setattr(reading, "BLOCK", size)
    found = read(poem, tokens)
    np.testing.assert_array_equal(found.tokens, whole.tokens)
    assert found.vocabulary == whole.vocabulary
    (poem.parent / "bad.txt").write_bytes(POEM.encode()[:200] + b"\n\xe9t\xe9")
    if tokens == "bytes":
        return
    with pytest.raises(TextError) as caught:
        read(poem.parent / "bad.txt", tokens)
    lines = POEM.encode()[:200].count(b"\n") + 2
    assert (caught.value.line, caught.value.byte) == (lines, 201)


def test_a_tokenizer_gets_a_long_text_in_pieces(poem, bpe, monkeypatch):
    """Cut where that changes no token of GPT-2's kind: at ends of lines in front of lines without indent, else before a
    blank."""
    whole = bpe.encode(POEM).ids
    for size in (20, 64):
        monkeypatch.setattr(vocabulary, "PIECE", size)
        np.testing.assert_array_equal(read(poem, bpe).tokens, whole)
        pieces, rest = vocabulary._cut(POEM)
        assert "".join([*pieces, rest]) == POEM
        assert max(map(len, [*pieces, rest])) <= 2 * size
        if size == 64:
            assert all(piece.endswith("\n") and not after[0].isspace()
                       for piece, after in zip(pieces, [*pieces[1:], rest], strict=True))  # fmt: skip


def test_tokenizers_come_as_objects_files_and_folders(poem, bpe, tmp_path):
    expected = bpe.encode(POEM).ids
    (tmp_path / "one").mkdir()
    bpe.save(str(tmp_path / "one" / "tokenizer.json"))
    paths = [tmp_path / "one", str(tmp_path / "one" / "tokenizer.json")]
    for names in vocabulary.BPE_FILES:
        folder = tmp_path / names[0]
        folder.mkdir()
        for written, name in zip(bpe.model.save(str(folder)), names, strict=True):
            os.replace(written, folder / name)
        paths.append(folder)
    for given in (bpe, type("Fast", (), {"backend_tokenizer": bpe})(), *paths):
        np.testing.assert_array_equal(read(poem, given).tokens, expected)
    special = read(poem, paths[-1]).vocabulary.encode("a<|endoftext|>")
    assert special[-1] == bpe.token_to_id("<|endoftext|>")


def test_options_of_a_tokenizer_for_rows_of_one_length_are_off(poem, bpe):
    given = tokenizers.Tokenizer.from_str(bpe.to_str())
    given.enable_truncation(4)
    given.enable_padding(length=1000)
    np.testing.assert_array_equal(read(poem, given).tokens, bpe.encode(POEM).ids)
    assert given.truncation["max_length"] == 4


def test_the_vocabulary_of_another_text(poem, tmp_path):
    known = read(poem).vocabulary
    (tmp_path / "new.txt").write_text("Krah!\nKrah, Dach\nXaver", encoding="utf-8")
    with pytest.raises(TextError, match=r"new\.txt, line 3, byte 17: expected characters of .*, got 'X'"):
        read(tmp_path / "new.txt", known)
    (tmp_path / "new.txt").write_text("Krah!", encoding="utf-8")
    assert known.decode(read(tmp_path / "new.txt", known).tokens) == "Krah!"


# ---- parts and figures


def test_the_tail_is_held_out(poem, tokens):
    found = read(poem, tokens)
    rest, tail = found.split(0.2)
    np.testing.assert_array_equal(np.concatenate([rest.tokens, tail.tokens]), found.tokens)
    assert len(tail) == round(0.2 * len(found))
    assert np.shares_memory(tail.tokens, found.tokens)
    assert tail.vocabulary is found.vocabulary
    windows = rest.windows(5)
    np.testing.assert_array_equal(windows.x[2], found.tokens[10:15])
    for fraction in (0, 1, 1e-9, 1 - 1e-9):
        with pytest.raises(ValueError, match="'fraction'"):
            found.split(fraction)


def test_perplexity_and_bits_of_a_byte(poem, tokens):
    """A model that knows nothing of 256 bytes has 8 bits a byte, whatever its tokens are."""
    found = read(poem, tokens)
    _, tail = found.split(0.3)
    count = len(tail.vocabulary.decode(tail.tokens).encode())
    assert tail.bytes_per_token == pytest.approx(count / len(tail), rel=1e-12)
    loss = 8 * math.log(2) * tail.bytes_per_token
    assert tail.bits_per_byte(loss) == pytest.approx(8, rel=1e-12)
    assert text.perplexity(math.log(65)) == pytest.approx(65)
    assert text.perplexity(1e4) == math.inf
    with pytest.raises(ValueError, match="'loss'"):
        text.perplexity(math.nan)
    with pytest.raises(ValueError, match="'loss'"):
        tail.bits_per_byte(-1)


def test_a_text_is_learnt(tmp_path):
    """From the text to a model that predicts it: every character is followed by the next of the alphabet."""
    (tmp_path / "abc.txt").write_text("abcdefgh" * 200)
    found = read(tmp_path / "abc.txt")
    rest, tail = found.split(0.1)
    net = network(8, dtype="float64")
    history = net.fit(
        rest.windows(8), optimizer=fastgd.Adam(0.05), epochs=60, validation_data=tail.windows(8), batch_size=8
    )
    assert history.validation_loss[-1] < 0.2 < history.loss[0]
    net.preprocessing = found.vocabulary
    p = net.predict(net.preprocessing.encode("cdefghab")[np.newaxis])[0]
    assert net.preprocessing.decode(p.argmax(axis=1)) == "defghabc"


# ---- stored tokens


def test_tokens_are_stored_and_used_again(poem, tokens, tmp_path, monkeypatch):
    file = tmp_path / "poem.tokens"
    whole, stored = read(poem, tokens), read(poem, tokens, cache=file)
    assert isinstance(stored.tokens, np.memmap)
    assert stored.tokens.ctypes.data % 64 == 0
    np.testing.assert_array_equal(stored.tokens, whole.tokens)
    np.testing.assert_array_equal(safetensors.numpy.load_file(file)["tokens"], whole.tokens)
    written = os.stat(file).st_ino
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_texts", None)  # the text is not read
        again = read(poem, tokens, cache=str(file))
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    assert again.vocabulary == whole.vocabulary
    assert os.stat(file).st_ino == written
    poem.write_bytes(POEM.encode().replace(b"Krah", b"Bums"))  # the same length
    changed = read(poem, tokens, cache=file)
    assert changed.vocabulary.decode(changed.tokens) == POEM.replace("Krah", "Bums")
    np.testing.assert_array_equal(stored.tokens, whole.tokens)  # the old mapping stays
    other = read(poem, "bytes" if tokens != "bytes" else "characters", cache=file)
    assert other.vocabulary != changed.vocabulary
    file.write_bytes(file.read_bytes()[:-1])
    assert read(poem, tokens, cache=file).vocabulary == changed.vocabulary
    assert sorted(os.listdir(tmp_path)) == ["poem.tokens", "poem.txt"]


def test_large_texts_are_stored_beside_the_text(poem, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "IN_MEMORY", 100)
    found = read(poem, tokens)
    assert isinstance(found.tokens, np.memmap)
    assert found.vocabulary.decode(found.tokens) == POEM
    if tokens == "bytes":
        assert (found.tokens.filename, found.notes) == (str(poem), [])
        return
    assert found.notes == [f"the tokens are stored in {poem}.tokens"]
    assert read(tmp_path, tokens).notes == [f"the tokens are stored in {tmp_path}.tokens"]
    os.remove(f"{tmp_path}.tokens")


def test_an_error_leaves_no_file_and_no_other_file_is_replaced(poem, tmp_path):
    with pytest.raises(TextError):
        read(poem, Characters("ab"), cache=tmp_path / "a.tokens")
    for content in (b"", b"my notes", safetensors.numpy.save({"w1": np.zeros(3)})):
        (tmp_path / "mine").write_bytes(content)
        with pytest.raises(ValueError, match="'cache': expected a new file, or one that keeps tokens"):
            read(poem, cache=tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == content
    with pytest.raises(FileNotFoundError, match="'cache'"):
        read(poem, cache=tmp_path / "none" / "a.tokens")
    assert sorted(os.listdir(tmp_path)) == ["mine", "poem.txt"]


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_a_text_larger_than_memory_takes_little_of_it(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 2**16)
    monkeypatch.setattr(reading, "IN_MEMORY", 2**20)
    (tmp_path / "long.txt").write_bytes(POEM.encode() * 100_000)
    tracemalloc.start()
    try:
        found = read(tmp_path / "long.txt", kind)
        assert found.bytes_per_token >= 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.vocabulary.encode(POEM)) * 100_000 == len(found)
    assert peak < 2e7 < os.stat(tmp_path / "long.txt").st_size


# ---- with a network


def test_a_network_keeps_its_vocabulary(poem, tokens, tmp_path):
    found = read(poem, tokens)
    net = network(len(found.vocabulary))
    net.preprocessing = found.vocabulary
    net.save(tmp_path / "net.safetensors")
    loaded, _ = fastgd.load(tmp_path / "net.safetensors")
    assert loaded.preprocessing == found.vocabulary
    np.testing.assert_array_equal(loaded.preprocessing.encode(POEM), found.tokens)
    assert loaded.preprocessing.decode(found.tokens) == POEM
    assert pickle.loads(pickle.dumps(net)).preprocessing == found.vocabulary
    assert json.loads(json.dumps(found.vocabulary.config())) == found.vocabulary.config()


def test_a_network_may_have_more_outputs_than_tokens_and_not_fewer():
    network(4).preprocessing = Characters("abcd")
    network(9).preprocessing = Characters("abcd")
    for net in (network(3), fastgd.Network((8, 2), [Dense(4)], loss="softmax_cross_entropy")):
        with pytest.raises(ValueError, match=r"'preprocessing': expected a vocabulary of at most \d tokens"):
            net.preprocessing = Characters("abcd")
        assert net.preprocessing is None
    with pytest.raises(TypeError, match="'preprocessing': expected .*vocabulary"):
        network(4).preprocessing = "abcd"


def test_a_run_is_not_resumed_with_another_vocabulary(tmp_path):
    ids, file = np.arange(100) % 4, tmp_path / "run.safetensors"
    for characters, error in (("abcd", None), ("abce", fastgd.CheckpointError)):
        net = network(4)
        net.preprocessing = Characters(characters)
        if error:
            with pytest.raises(error, match="preprocessing"):
                net.fit(text.Windows(ids, 8), checkpoint=file, resume=True)
        else:
            net.fit(text.Windows(ids, 8), epochs=1, checkpoint=file)


def test_a_damaged_vocabulary_in_a_file_is_an_error(tmp_path, monkeypatch):
    net = network(4)
    net.preprocessing = Characters("ab")
    for config in ({"tokens": "words"}, {"tokens": "characters", "characters": "ba"}, {"tokens": "tokenizer"}, {},
                   {"tokens": "tokenizer", "json": "{}", "size": -1}, {"tokens": "bytes"}):  # fmt: skip
        monkeypatch.setattr(Characters, "config", lambda self, config=config: {"text": config})
        net.save(tmp_path / "net.safetensors")
        with pytest.raises(fastgd.CheckpointError, match="preprocessing"):
            fastgd.load(tmp_path / "net.safetensors")


def test_onnx_takes_the_tokens(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = network(4)
    net.preprocessing = Characters("abcd")
    net.to_onnx(tmp_path / "net.onnx")
    x = np.arange(16, dtype=np.float32).reshape(2, 8) % 4
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    np.testing.assert_allclose(session.run(["prediction"], {"x": x})[0], net.predict(x), rtol=1e-5)


WITHOUT = """
import sys
sys.modules["tokenizers"] = None
import fastgd
net, _ = fastgd.load(sys.argv[1])
assert len(net.preprocessing) == net.output_shape[-1]
net.save(sys.argv[1])
for call in (lambda: net.preprocessing.encode("a"), lambda: fastgd.text.read(sys.argv[2], sys.argv[3])):
    try:
        call()
    except ImportError as error:
        print(error)
"""


def test_the_library_is_only_needed_to_use_its_tokenizers(bpe, poem, tmp_path):
    known = Tokenizer.of(bpe)
    net = network(len(known))
    net.preprocessing = known
    net.save(tmp_path / "net.safetensors")
    bpe.save(str(tmp_path / "tokenizer.json"))
    arguments = [tmp_path / "net.safetensors", poem, tmp_path / "tokenizer.json"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "tokenizers need the library of that name: pip install 'fastgd[text]'"
    ] * 2, done.stderr  # fmt: skip
    assert fastgd.load(tmp_path / "net.safetensors")[0].preprocessing == known


# ---- errors


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"a\.txt: expected text, got an empty file"),
        (b"\xef\xbb\xbf", r"a\.txt: expected text"),
        (b"ab\nc\xff", r"a\.txt, line 2, byte 4: expected UTF-8, got 0xff \(invalid start byte\)"),
        (b"abc\xe2\x82", r"a\.txt, line 1, byte 3: expected UTF-8, got 0xe2 \(unexpected end of data\)"),
        ("abc".encode("utf-16"), r"a\.txt, line 1, byte 0: expected UTF-8, got 0xff .*begins as UTF-16"),
    ],
)
def test_files_that_are_no_text(content, match, tokens, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    if tokens == "bytes" and "UTF-8" in match:
        np.testing.assert_array_equal(read(tmp_path / "a.txt", tokens).tokens, np.frombuffer(content, np.uint8))
        return
    with pytest.raises(TextError, match=match) as caught:
        read(tmp_path / "a.txt", tokens)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert caught.value.path == str(tmp_path / "a.txt")


def test_bytes_of_several_files(tmp_path):
    """... and of a cache: what is in them, but for a byte-order mark in front of each."""
    contents = b"\xff\x00", b"\xef\xbb\xbfa\xef", b"\xbb\xbf"
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    expected = np.frombuffer(b"\xff\x00a\xef\xbb\xbf", np.uint8)
    for file in (None, tmp_path / "cache", tmp_path / "cache"):
        found = read(paths, "bytes", cache=file)
        np.testing.assert_array_equal(found.tokens, expected)
        assert (found.tokens.dtype, found.bytes_per_token) == (np.uint8, 1)


def test_a_tokenizer_without_a_token_for_unknown_text_is_an_error(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "book.txt").write_text("a b c")
    for fails in (lambda: text.read(tmp_path / "book.txt", words), lambda: text.from_string("a b c", words)):
        with pytest.raises(ValueError, match="^argument 'tokens': expected a tokenizer that has tokens.*UNK"):
            fails()
    with pytest.raises(ValueError, match="^argument 'text': expected a text.*UNK"):
        Tokenizer.of(words).encode("a c")
    assert Tokenizer.of(words).encode("a b").tolist() == [0, 1]


def test_a_note_tells_how_many_tokens_are_unknown(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    for content, notes in (("a b a", []), ("a b c a", ["25.00% of the tokens are [UNK]"])):
        (tmp_path / "words.txt").write_text(content)
        found = read(tmp_path / "words.txt", words)
        assert [note.partition(",")[0] for note in found.notes] == notes


def test_other_errors_name_file_or_argument(poem, tmp_path, bpe):
    (tmp_path / "one.txt").write_text("aaaa")
    with pytest.raises(TextError, match=r"one\.txt: expected text of at least 2 different characters, got 1"):
        read(tmp_path / "one.txt")
    with pytest.raises(TextError, match=rf"poem\.txt: expected more than 300 tokens, .*\(context\), got {len(POEM)}"):
        read(poem).windows(300)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TextError, match=r"empty: expected files \.txt or \.md in the folder, got none"):
        read(tmp_path / "empty")
    with pytest.raises(TextError, match="expected a regular file, got a folder"):
        read([tmp_path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TextError, match="expected a regular file, got a pipe"):
        read(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none.txt")
    for path, error in (([], ValueError), (3, TypeError), ([3], TypeError)):
        with pytest.raises(error, match="'path'"):
            read(path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    cases = (
        ("character", ValueError, "did you mean 'characters'"),
        (3, TypeError, "a tokenizers.Tokenizer"),
        (tmp_path / "bad.json", ValueError, r"a tokenizer\.json"),
        (tmp_path / "none.json", FileNotFoundError, "none"),
        (tmp_path / "empty", ValueError, r"a folder with tokenizer\.json"),
        (tmp_path, ValueError, "byte-level"),
    )
    for tokens, error, match in cases:
        with pytest.raises(error, match=match):
            read(poem, tokens)


def test_encode_and_decode_check_what_they_get(bpe):
    known = Characters("abc")
    with pytest.raises(ValueError, match="'text': expected characters of 'abc', got 'x' at index 2"):
        known.encode("abxa")
    for vocabulary_ in (known, Bytes(), Tokenizer.of(bpe)):
        size = len(vocabulary_)
        with pytest.raises(TypeError, match="'text'"):
            vocabulary_.encode(b"abc")
        for ids, got in (([0, size], f"{size} at index 1"), ([-1], "-1 at index 0")):
            with pytest.raises(ValueError, match=rf"'ids': expected integers in \[0, {size - 1}\], got {got}"):
                vocabulary_.decode(ids)
        for ids in ([0.5], [[1]], "abc"):
            with pytest.raises(TypeError, match="'ids'"):
                vocabulary_.decode(ids)
    assert Bytes().decode([97, 0xE9, 98]) == "a\ufffdb"
    for characters in ("", "a", "ba", "aab"):
        with pytest.raises(ValueError, match="'characters'"):
            Characters(characters)


def test_the_header_of_stored_tokens_has_a_fixed_length():
    """The tokens are written before their number is known."""
    metadata = {cache.NAME: "x"}
    longest = len(cache._header(metadata, np.dtype(np.uint16), 10**cache.NUMBER))
    assert len(cache._header(metadata, np.dtype(np.uint16), 2**62)) <= longest
