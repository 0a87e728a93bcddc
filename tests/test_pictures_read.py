"""Images from folders of pictures, IDX and npz files: pixels, labels, and errors that name each file."""

import gzip
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import fastgd
from fastgd import Dense, Flatten, images
from fastgd.errors import plain
from fastgd.images import ImageError, Preprocessing, Problem, read


def picture(path, mode="L", size=(6, 5), seed=0, **options):
    """Writes a picture of random pixels, (width, height); returns its path."""
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 3)
    data = np.random.default_rng(seed).integers(0, 256, (*size[::-1], channels), np.uint8)
    made = Image.frombytes({1: "L", 2: "LA", 3: "RGB", 4: mode}[channels], size, data.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    made.convert(mode).save(path, **options)
    return path


def pixels(path, mode=None):
    """The pixels that Pillow reads, in a mode."""
    with Image.open(path) as given:
        return np.asarray(given if mode is None else given.convert(mode))


def truncated(path, **options):
    data = picture(path, **options).read_bytes()
    path.write_bytes(data[: len(data) - 25])
    return path


@pytest.fixture
def folder(tmp_path):
    """Three classes of 7, 5 and 3 grey pictures."""
    for name, count in (("cat", 7), ("ant", 5), ("bee", 3)):
        for i in range(count):
            picture(tmp_path / "all" / name / f"{i}.png", seed=ord(name[0]) + i)
    return tmp_path / "all"


def test_a_folder_with_a_folder_for_each_class(folder):
    """Classes and files are sorted; hidden files and others beside the classes are ignored and noted."""
    (folder / "ant" / ".DS_Store").write_bytes(b"\0")
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "labels.csv").write_text("a,b")
    (folder / ".git").mkdir()
    os.symlink("cat", folder / "dog")
    data = read(str(folder))
    assert data.classes == ("ant", "bee", "cat", "dog")
    assert (data.shape, len(data), data.labels.dtype) == ((5, 6, 1), 22, np.int64)
    assert data.labels.tolist() == [0] * 5 + [1] * 3 + [2] * 7 + [3] * 7
    assert data.paths == [
        str(folder / name / f"{i}.png") for name, n in zip(data.classes, (5, 3, 7, 7), strict=True) for i in range(n)
    ]
    assert data.notes == ["ignored: .DS_Store, .git, Thumbs.db and 1 more names"]
    expected = [pixels(path)[..., None] for path in data.paths]
    np.testing.assert_array_equal(data.images, expected)
    assert data.images.dtype == np.uint8
    assert data.images is data.images  # decoded once
    assert repr(data) == "Images(22 of 5x6x1, 4 classes)"


def test_a_network_takes_them_with_their_labels(folder):
    """As arrays; images with other classes than the network's are refused, and so are images without labels."""
    data, few = read(folder), folder.parent / "few"
    for name in ("bee", "cat"):
        picture(few / name / "0.png")
    nets = [fastgd.Network(data.shape, [Flatten(), Dense(3)], loss="softmax_cross_entropy") for _ in range(2)]
    nets[0].preprocessing = data.preprocessing
    nets[0].fit(data, epochs=2, validation_data=data)
    nets[1].fit(data.images, data.labels, epochs=2, validation_data=(data.images, data.labels))
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert nets[0].history.validation_loss == nets[1].history.validation_loss
    assert nets[0].evaluate(data) == nets[1].evaluate(data.images, data.labels)
    expected = r"expected images with the classes \['ant', 'bee', 'cat'\], as read\(.*like="
    for refused in (nets[0].fit, nets[0].evaluate, lambda images: nets[0].fit(data, validation_data=images)):
        with pytest.raises(ValueError, match=expected):
            refused(read(few))
        with pytest.raises(ValueError, match="'labels': expected images with classes"):
            refused(read(folder / "ant"))


def test_pictures_without_labels(folder):
    names = [folder / "bee" / "2.png", folder / "ant" / "1.png"]
    for path, paths in ((names[0], names[:1]), (names, names), (folder / "bee", sorted((folder / "bee").iterdir()))):
        data = read(path)
        assert (data.labels, data.classes) == (None, None)
        assert data.paths == [str(path) for path in paths]
        np.testing.assert_array_equal(data.images[..., 0], [pixels(path) for path in paths])
        with pytest.raises(ValueError, match="'labels'"):
            data.minibatches(2)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_formats(ending, tmp_path):
    path = picture(tmp_path / f"a.{ending}", "RGB")
    np.testing.assert_array_equal(read(path).images[0], pixels(path, "RGB"))


@pytest.mark.parametrize(("mode", "ending", "channels"), [
    ("1", "png", 1), ("L", "png", 1), ("LA", "png", 1), ("P", "png", 3), ("P", "gif", 3), ("RGB", "png", 3),
    ("RGBA", "png", 3), ("CMYK", "tif", 3), ("CMYK", "jpg", 3),
])  # fmt: skip
def test_modes(mode, ending, channels, tmp_path):
    path = picture(tmp_path / f"a.{ending}", mode)
    expected, atol = pixels(path, "L" if channels == 1 else "RGB").reshape(5, 6, -1), 0
    if "A" in mode:
        alpha = pixels(path)[..., -1:] / 255
        expected, atol = alpha * expected + (1 - alpha) * 255, 1
    data = read(path)
    assert data.shape == (5, 6, channels)
    np.testing.assert_allclose(data.images[0], expected, rtol=0, atol=atol)
    assert bool(data.notes) == ("A" in mode)
    other = read(path, channels=4 - channels)
    assert other.images.shape == (1, 5, 6, 4 - channels)
    if channels == 1:
        np.testing.assert_array_equal(other.images, np.repeat(data.images, 3, axis=3))


def test_a_photo_that_holds_its_preview(tmp_path):
    """As of many phones: JPEG files with a second picture (MPO)."""
    photo, preview = (Image.new("RGB", size, (200, 100, 50)) for size in ((16, 8), (4, 2)))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    np.testing.assert_allclose(read(tmp_path / "a.jpg").images, np.full((1, 8, 16, 3), (200, 100, 50)), rtol=0, atol=3)


def test_transparency_of_palettes_and_colours(tmp_path):
    for mode, transparent in (("P", 3), ("L", 77), ("RGB", (1, 2, 3))):
        made = Image.new(mode, (2, 1), transparent)
        if mode == "P":
            made.putpalette([10 * i for i in range(24)])
        made.putpixel((1, 0), 5 if mode == "P" else (9, 9, 9) if mode == "RGB" else 9)
        made.save(tmp_path / "a.png", transparency=transparent)
        left, right = read(tmp_path / "a.png").images[0, 0]
        assert (left == 255).all()
        assert (right < 255).any()


def test_grey_pictures_among_coloured_ones(folder):
    picture(folder / "bee" / "9.png", "RGB")
    data = read(folder)
    assert (data.shape, data.notes) == ((5, 6, 3), ["15 of 16 pictures grey, read as RGB"])
    grey = read(folder, channels=1)
    assert (grey.shape, grey.notes) == ((5, 6, 1), ["1 of 16 pictures coloured, read as grey"])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_pictures_are_turned_as_exif_says(ending, tmp_path):
    for orientation in (*range(1, 9), 0, 77):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = picture(tmp_path / f"a.{ending}", "RGB", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        np.testing.assert_array_equal(read(path).images[0], expected)
        assert read(path, size=(3, 8)).images.shape == (1, 3, 8, 3)


def test_sizes(folder):
    picture(folder / "bee" / "9.png", size=(4, 7))
    with pytest.raises(ImageError, match=r"bee/9.png: expected 5x6 pixels .*size= \(--size\).*, got 7x4"):
        read(folder)
    data = read(folder, size=(5, 6))
    assert (data.shape, data.resize, data.notes) == ((5, 6, 1), True, ["1 of 16 pictures resized to 5x6"])
    unchanged = [i for i, path in enumerate(data.paths) if not path.endswith("9.png")]
    for i in unchanged:
        np.testing.assert_array_equal(data.images[i, ..., 0], pixels(data.paths[i]))
    large = Image.fromarray(np.full((400, 300, 3), (10, 200, 90), np.uint8))
    large.save(folder / "ant" / "0.jpg")  # decoded at a fraction of its size
    data = read(folder, size=8)
    of_large = data.images[data.paths.index(str(folder / "ant" / "0.jpg"))]
    np.testing.assert_allclose(of_large, np.broadcast_to((10, 200, 90), (8, 8, 3)), rtol=0, atol=3)


def test_every_bad_file_is_named(folder):
    """All of them in one error, before anything is decoded."""
    (folder / "ant" / "empty.png").write_bytes(b"")
    (folder / "ant" / "text.png").write_text("no picture")
    (folder / "ant" / "within").mkdir()
    os.mkfifo(folder / "bee" / "pipe.png")
    os.symlink("nothing", folder / "bee" / "link.png")
    os.symlink("loop", folder / "bee" / "loop")
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "bee" / "deep.png")
    (folder / "dog").mkdir()
    picture(folder / "loose.jpg")
    picture(folder / "cat" / "9.png", size=(7, 7))
    truncated(folder / "cat" / "cut.png", size=(6, 5))  # its header is as it should be
    (folder / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(ImageError) as caught:
        read(folder)
    problems = {os.path.relpath(path, folder): (expected, got) for path, expected, got in caught.value.problems}
    expected = {
        "ant/empty.png": ("a picture", "an empty file"),
        "ant/text.png": ("a picture", "other contents"),
        "ant/within": ("pictures in the folder of a class", "a folder"),
        "bee/pipe.png": ("a picture", "a pipe"),
        "bee/link.png": ("a file that can be read", "No such file"),
        "bee/loop": ("a file that can be read", "symbolic links"),
        "bee/deep.png": ("8 bits a channel", "16 bits a channel, mode 'I;16'"),
        "dog": ("at least 1 picture of the class", "none"),
        "loose.jpg": ("pictures in the folder of their class", "beside folders"),
        "cat/9.png": ("5x6 pixels", "7x7"),
        "cat/cut.png": ("a whole picture", "truncated"),
        "\udcff": ("UTF-8", "other bytes"),
    }
    assert problems.keys() == expected.keys()
    for name, (wanted, got) in expected.items():
        assert wanted in problems[name][0], name
        assert got in problems[name][1], name
    text = str(caught.value)
    assert text.startswith("12 problems: ")
    assert all(f"{plain(path)}: expected {expected}, got" in text for path, expected, _ in caught.value.problems)
    text.encode("utf-8")
    many = str(ImageError([Problem(f"{i}.png", "a picture", "text") for i in range(1000)])).split("; ")
    assert (len(many), many[-1]) == (101, "and 900 more")


def png(path, bits, colours, width, data):
    """Writes a PNG file of one row, with a header that may lie."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colours, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + data)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def animation(path):
    frames = [Image.new("L", (4, 4), 40 * i) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


REFUSED = {
    "colours of 16 bits": (
        "a.png",
        lambda p: png(p, 16, 2, 1, b"\x12\x34" * 3),
        "8 bits a channel.*got 16 bits a channel, mode 'RGB'",
    ),
    "floats": ("a.tif", lambda p: Image.new("F", (2, 2)).save(p), "8 bits a channel.*mode 'F'"),
    "integers": ("a.tif", lambda p: Image.new("I", (2, 2)).save(p), "8 bits a channel.*mode 'I'"),
    "Lab": ("a.tif", lambda p: Image.new("LAB", (2, 2)).save(p), "8 bits a channel.*mode 'LAB'"),
    "animation": ("a.gif", animation, "one picture, got 3 pictures in one GIF file"),
    "another format": ("a.ico", lambda p: Image.new("L", (16, 16)).save(p), "a picture .*got other contents"),
    "a program": ("a.eps", lambda p: Image.new("L", (4, 4)).save(p), "a picture .*got other contents"),
    "bomb": (
        "a.png",
        lambda p: png(p, 8, 0, 2**30, b""),
        "a picture that is no decompression bomb, got .*1073741824 pix",
    ),
    "nothing": ("a.png", lambda p: None, "a file that can be read, got No such file"),
    "an empty folder": ("a", lambda p: p.mkdir(), "a folder of pictures for each class.*got an empty folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    name, make, match = REFUSED[case]
    make(tmp_path / name)
    with pytest.raises(ImageError, match=f"{name}: expected {match}"):
        read(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Image size")
def test_pictures_larger_than_pillow_allows(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(ImageError, match=r"a.png: expected at most 29 pixels .*got 30"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(tmp_path / "a.png").images.shape == (1, 5, 6, 1)


def test_truncated_files_are_named_when_they_are_decoded(folder):
    truncated(folder / "ant" / "7.png", size=(60, 50))
    truncated(folder / "cat" / "8.jpg", size=(60, 50))
    data = read(folder, size=9)
    with pytest.raises(ImageError) as caught:
        _ = data.images
    assert [os.path.relpath(path, folder) for path, *_ in caught.value.problems] == ["ant/7.png", "cat/8.jpg"]
    assert {expected for _, expected, _ in caught.value.problems} == {"a whole picture"}
    with pytest.raises(ImageError, match="7.png|8.jpg"):
        list(data.minibatches(4))
    for name in ("ant/7.png", "cat/8.jpg"):
        os.remove(folder / name)
        with pytest.raises(ImageError, match="a file that can be read"):  # it has gone since
            _ = data.images


def test_a_file_that_changes_after_it_was_listed(folder):
    data = read(folder)
    picture(folder / "bee" / "1.png", size=(9, 9))
    with pytest.raises(ImageError, match="bee/1.png: expected 5x6 pixels .*got 9x9"):
        _ = data.images


def test_minibatches_are_those_of_arrays(folder):
    """Threads decode ahead; a network trained on them has the same bits as one trained on the array."""
    data, whole = read(folder), read(folder)
    batches = data.minibatches(4, seed=3)
    assert len(batches) == 4
    for epoch in range(2):
        pairs = zip(batches, fastgd.minibatches(whole.images, whole.labels, 4, seed=3, epoch=epoch), strict=True)
        for (x, y), (expected_x, expected_y) in pairs:
            np.testing.assert_array_equal(x, expected_x)
            np.testing.assert_array_equal(y, expected_y)
    nets = [fastgd.models.mlp(data.shape, 3, (5,), seed=1) for _ in range(3)]
    nets[0].fit(data.minibatches(4, seed=1), epochs=3)
    nets[1].fit(whole.images, whole.labels, batch_size=4, epochs=3)
    nets[2].fit(whole.minibatches(4, seed=1), epochs=3)
    for net in nets[1:]:
        np.testing.assert_array_equal(net.parameters, nets[0].parameters)
    (x, y), *_ = data.minibatches(None, shuffle=False)
    np.testing.assert_array_equal(x, whole.images)
    np.testing.assert_array_equal(y, whole.labels)


def test_few_minibatches_are_decoded_ahead(folder, monkeypatch):
    decoded, original = [], images.images.decode
    monkeypatch.setattr(images.images, "decode", lambda paths, *rest: decoded.append(paths) or original(paths, *rest))
    monkeypatch.setattr(images.images, "default_threads", lambda: 2)
    data = read(folder)
    batches = iter(data.minibatches(2))
    next(batches)
    time.sleep(0.05)  # in which more would be decoded
    batches.close()  # an epoch may end early
    assert len(decoded) <= 3
    assert data._pixels is None


def test_parts(folder):
    data = read(folder)
    rest, part = data.split(0.2, seed=5)
    assert (len(rest), len(part)) == (12, 3)
    assert sorted(rest.paths + part.paths) == sorted(data.paths)
    for one in (rest, part, data.part(data.labels == 1), data.part(slice(2, 9, 3))):
        index = [data.paths.index(path) for path in one.paths]
        np.testing.assert_array_equal(one.labels, data.labels[index])
        np.testing.assert_array_equal(one.images, data.images[index])
        assert one.classes == data.classes
    np.testing.assert_array_equal(data.part([]).labels, [])
    np.testing.assert_array_equal(data.part(np.array([-1, 0], np.int8)).labels, data.labels[[-1, 0]])
    with pytest.raises(ValueError, match="'fraction'"):
        data.split(1.0)


@pytest.mark.parametrize(("index", "error", "match"), [
    ([3, 15], IndexError, "'index': expected integers from -15 to 14, got 15"),
    (np.array([-16]), IndexError, "'index': .*got -16"),
    (np.ones(14, bool), IndexError, "'index': expected 15 truth values, one for each image, got 14"),
    ([0.5], TypeError, "'index': expected a slice, or an array"), (3, TypeError, "'index'"),
], ids=str)  # fmt: skip
def test_parts_that_there_are_not(index, error, match, folder):
    with pytest.raises(error, match=match):
        read(folder).part(index)


def test_images_that_do_not_fit_into_memory(folder, monkeypatch):
    monkeypatch.setattr(images.images, "MOST_MEMORY", 1e-12)
    with pytest.raises(MemoryError, match=r"at most 0 bytes, .*, got 450 for 15 of 5x6x1; .*minibatches\(\)"):
        _ = read(folder).images


# ---- IDX and npz


def idx(path, array, *, magic=None, compressed=False, cut=0, more=b""):
    """Writes an IDX file; returns its path."""
    data = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim if magic is None else magic, *array.shape)
    data = (data + array.tobytes())[: -cut or None] + more
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


@pytest.fixture
def mnist(tmp_path, rng):
    """A folder like MNIST's, and its arrays."""
    arrays = {}
    for part, rows in (("train", 20), ("t10k", 9)):
        X, y = rng.integers(0, 256, (rows, 4, 3), np.uint8), rng.permuted(np.arange(rows) % 5).astype(np.uint8)
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", X, compressed=True)
        idx(tmp_path / f"{part}-labels-idx1-ubyte", y)
        arrays[part] = X[..., None], y
    return tmp_path, arrays


def test_idx_files(mnist):
    folder, arrays = mnist
    for path, part, options in (
        (folder, "train", {}), (folder, "t10k", {"part": "test"}), (folder / "t10k-images-idx3-ubyte.gz", "t10k", {}),
    ):  # fmt: skip
        data = read(path, **options)
        np.testing.assert_array_equal(data.images, arrays[part][0])
        np.testing.assert_array_equal(data.labels, arrays[part][1])
        assert (data.classes, data.paths) == (tuple("01234"), None)
    assert read(folder).notes == ["read from train-images-idx3-ubyte.gz"]
    (folder / "unpacked").mkdir()
    assert read(folder).notes == ["read from train-images-idx3-ubyte.gz", "ignored: unpacked"]
    idx(folder / "x.idx4-ubyte", np.zeros((3, 5, 4, 3), np.uint8))
    data = read(folder / "x.idx4-ubyte", size=(2, 6), channels=1)
    assert (data.images.shape, data.labels, len(data.notes)) == ((3, 2, 6, 1), None, 3)


X, Y = np.zeros((7, 4, 3), np.uint8), np.arange(7, dtype=np.uint8)
BAD_IDX = {
    "magic": (lambda p: idx(p, X, magic=0x0D03), "ubyte: expected an IDX file of images .*0x00000803.*got 0x00000d03"),
    "labels": (lambda p: idx(p, Y), "got 0x00000801, labels"),
    "empty": (lambda p: p.write_bytes(b""), "got an empty file"),
    "truncated": (lambda p: idx(p, X, cut=3), "expected 84 bytes, as the header says: 7x4x3, got 81 bytes"),
    "truncated gzip": (lambda p: p.write_bytes(gzip.compress(b"\0\0\x08\x03" * 99)[:-9]), "got damaged gzip data"),
    "gzip of less": (lambda p: idx(p, X, cut=3, compressed=True), "got 81 bytes: the file is truncated"),
    "header": (lambda p: idx(p, X, cut=X.size + 3), "with 3 sizes, got 9 bytes"),
    "more": (lambda p: idx(p, X, more=b"a"), "expected 84 bytes.*got more bytes"),
    "vast": (lambda p: p.write_bytes(struct.pack(">4I", 0x803, *3 * [2**31])), "expected 9,.*got 0 bytes"),
    "no image": (lambda p: idx(p, X[:0]), "at least 1 image"),
    "channels": (lambda p: idx(p, np.zeros((2, 3, 3, 2), np.uint8)), "1 or 3 channels"),
    "a folder": (lambda p: p.mkdir(), "an empty folder"),
    "a pipe": (os.mkfifo, "expected a regular file, got a pipe"),
    "fewer labels": (lambda p: (idx(p, X), idx(p.with_name("the-labels.idx1-ubyte"), Y[:5])),
                     "the-labels.idx1-ubyte: expected 7 labels for the images in .*the-images.idx3-ubyte, got 5"),
    "bad labels": (lambda p: (idx(p, X), idx(p.with_name("the-labels.idx1-ubyte"), X)),
                   "the-labels.idx1-ubyte: expected an IDX file of labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files(case, tmp_path):
    make, match = BAD_IDX[case]
    make(tmp_path / "the-images.idx3-ubyte")
    with pytest.raises(ImageError, match=match):
        read(tmp_path / "the-images.idx3-ubyte")


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_data_have_no_parts(part, folder, mnist):
    for path in (folder, folder / "ant", next((folder / "ant").iterdir()), [next((folder / "ant").iterdir())],
                 mnist[0] / "t10k-images-idx3-ubyte.gz"):  # fmt: skip
        with pytest.raises(ValueError, match=f"'part': expected None, .*got '{part}'"):
            read(path, part=part)


def test_a_folder_of_idx_files_without_the_part(mnist):
    folder, _ = mnist
    os.remove(folder / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(ImageError, match="one IDX file of images of the part 'test', .*got none among"):
        read(folder, part="test")
    idx(folder / "letters-train-images-idx3-ubyte", X)
    with pytest.raises(ImageError, match=r"got .*letters-train-images-idx3-ubyte, .*train-images-idx3-ubyte among"):
        read(folder)


IMAGES = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


@pytest.mark.parametrize(("given", "shape"), [
    (IMAGES, (4, 3, 1)), (IMAGES.astype(float), (4, 3, 1)), (IMAGES.reshape(2, 4, 1, 3), (4, 1, 3)),
    (np.asfortranarray(IMAGES), (4, 3, 1)), (IMAGES % 2 == 1, (4, 3, 1)), (IMAGES.astype(">i4"), (4, 3, 1)),
])  # fmt: skip
def test_npz_files(given, shape, tmp_path):
    np.savez(tmp_path / "a.npz", X=given, digits=[3, 1])
    data = read(tmp_path / "a.npz", target="digits")
    np.testing.assert_array_equal(data.images, given.reshape(2, *shape))
    assert (data.images.dtype, data.shape, data.classes) == (np.uint8, shape, tuple("0123"))
    assert (data.labels.tolist(), data.notes) == ([3, 1], ["no image of class 0, 2"])
    assert read(tmp_path / "a.npz", target="digits", labels=False).labels is None


@pytest.mark.parametrize(("arrays", "match"), [
    ({"X": IMAGES / 10}, "whole numbers from 0 to 255, got float64 array .* with 0.1"),
    ({"X": IMAGES - 1.0}, "with -1.0"),
    ({"X": IMAGES + 250.0}, "with 256.0"),
    ({"X": IMAGES / np.where(IMAGES, 1, np.nan)}, "'X', row 1: expected a finite number"),
    ({"X": IMAGES[0]}, r"images \(n, height, width\)"),
    ({"X": np.zeros((2, 3, 8, 8), np.uint8)}, r"1 or 3 channels, got uint8 array of shape \(2, 3, 8, 8\)"),
    ({"X": np.zeros((2, 0, 8), np.uint8)}, r"got uint8 array of shape \(2, 0, 8\)"),
    ({"X": IMAGES, "y": [0.0, 1.0]}, r"integer labels \(2,\) in the array 'y', got float64"),
    ({"X": IMAGES, "y": [0, -1]}, "labels from 0 to 999, got -1 in row 2"),
    ({"X": IMAGES, "y": [0, 1, 2]}, "'y': expected an array of 2 rows"),
    ({"a": IMAGES, "b": IMAGES}, "expected an array 'X'"),
])  # fmt: skip
def test_bad_npz_files(arrays, match, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"a.npz.*{match}"):
        read(tmp_path / "a.npz")


# ---- what a network stores


def test_images_like_others(folder, tmp_path):
    """Size, channels and classes are those of the others; what differs is named."""
    made = read(folder).preprocessing
    assert made == Preprocessing(("ant", "bee", "cat"), (5, 6), 1, False)
    picture(tmp_path / "new" / "cat" / "a.png", "RGB")
    data = read(tmp_path / "new", like=made)
    assert (data.labels.tolist(), data.shape, data.preprocessing) == ([2], (5, 6, 1), made)
    picture(tmp_path / "new" / "dog" / "b.png")
    picture(tmp_path / "new" / "cat" / "c.png", size=(9, 9))
    with pytest.raises(
        ImageError, match=r"2 problems: .*c.png: expected 5x6.*dog: expected one of the classes \['ant', "
    ):
        read(tmp_path / "new", like=made)
    resized = read(folder, size=(5, 6)).preprocessing
    assert len(read(tmp_path / "new", like=resized, labels=False)) == 3
    np.savez(tmp_path / "a.npz", X=IMAGES, y=[0, 1])
    with pytest.raises(ImageError, match="a.npz: expected 5x6 pixels .* as in training, .*got 4x3"):
        read(tmp_path / "a.npz", like=made, labels=False)
    with pytest.raises(ImageError, match=r"one of the classes \['ant', 'bee', 'cat'\], got 0 in row 1"):
        read(tmp_path / "a.npz", like=resized)
    assert read(tmp_path / "a.npz", like=resized, labels=False).images.shape == (2, 5, 6, 1)


def test_preprocessing_is_saved_with_the_network(folder, tmp_path):
    data = read(folder)
    net = fastgd.models.mlp(data.shape, 3, (4,))
    net.preprocessing = data.preprocessing
    net.save(tmp_path / "m")
    loaded = fastgd.load(tmp_path / "m")[0].preprocessing
    assert loaded == data.preprocessing
    assert type(loaded.size) is tuple
    assert repr(loaded) == "Preprocessing(images, 5x6 pixels, grey; 3 classes)"
    assert loaded.decode(np.eye(3)[[2, 0]]).tolist() == ["cat", "ant"]
    with pytest.raises(ValueError, match="'prediction'"):
        loaded.decode(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"'preprocessing': expected \(5, 6, 1\) features and 2 outputs"):
        fastgd.models.mlp(data.shape, 2, (4,)).preprocessing = data.preprocessing
    with pytest.raises(TypeError, match="'preprocessing'"):
        net.preprocessing = data
    with pytest.raises(ValueError, match="'classes'"):
        _ = read(folder / "ant").preprocessing


@pytest.mark.parametrize(("changes", "match"), [
    ({"classes": ["a", "a"]}, "'classes'"), ({"classes": [1, 2]}, "'classes'"), ({"size": [0, 3]}, "'size'"),
    ({"channels": 2}, "'channels'"), ({"channels": True}, "'channels'"),
    ({"resize": 3}, "'resize'"), ({"size": None}, "NoneType"),
])  # fmt: skip
def test_damaged_preprocessing(changes, match):
    config = Preprocessing(("a", "b"), (2, 3), 1, False).config()
    assert Preprocessing.from_config(config) == Preprocessing(("a", "b"), (2, 3), 1, False)
    config["images"].update(changes)
    with pytest.raises((TypeError, ValueError), match=match):
        Preprocessing.from_config(config)


@pytest.mark.parametrize(("arguments", "options", "match"), [
    ((3,), {}, "'path': expected a path, or a list"), (([],), {}, "'path': expected at least 1 picture"),
    (([3],), {}, "'path'"), ((b"none",), {}, "none: expected a file"),
    (("a",), {"size": 0}, "'size'"), (("a",), {"size": (1, 2, 3)}, "'size'"),
    (("a",), {"size": 1.5}, "'size'"), (("a",), {"channels": 2}, "'channels'"), (("a",), {"like": "b"}, "'like'"),
    (("a",), {"channels": True}, "'channels'"), (("a",), {"channels": 1.0}, "'channels'"),
    (("a",), {"part": "validation"}, "'part'"), (("a",), {"labels": 1}, "'labels'"),
    (("a",), {"like": Preprocessing(("a",), (1, 1), 1, True), "size": 3}, "'size': expected None beside like"),
])  # fmt: skip
def test_bad_arguments(arguments, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        read(*arguments, **options)


def test_pillow_is_loaded_when_it_is_needed(folder, monkeypatch):
    check = "import sys, fastgd; fastgd.images.read; assert not [m for m in sys.modules if m.startswith('PIL')]"
    subprocess.run([sys.executable, "-c", check], check=True)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgd\[images\]'"):
        read(folder)


def test_errors_are_pickled():
    import pickle

    error = ImageError([Problem("a", "b", "c")])
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a: expected b, got c"
