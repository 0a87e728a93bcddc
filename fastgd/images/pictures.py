"""Picture files, by Pillow (extra `images`): what their headers say, and their pixels."""

import contextlib
import os
import stat
from typing import NamedTuple

import numpy as np

from ..core.threads import default_threads
from .errors import Problem, size_text

# Formats whose decoders start no other program, as that of EPS does, and that are recognised by their first bytes.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
A_PICTURE = f"a picture ({', '.join(FORMATS)})"
WHOLE = "a whole picture"
GREY, COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# Values of the EXIF tag Orientation, and the names of Pillow's operations that turn such a picture upright.
ORIENTATION = 0x0112
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
# Files that a thread takes at a time.
CHUNK = 32


class Header(NamedTuple):
    """size: (height, width), upright. is_grey: whether it has no colours. is_transparent: whether it may have
    transparent pixels."""

    size: tuple[int, int]
    is_grey: bool
    is_transparent: bool


def pillow():
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'fastgd[images]'") from error
    return PIL.Image


def in_threads(function, items):
    """[function(start, part)] of consecutive parts of a list, from several threads."""
    starts = range(0, len(items), CHUNK)
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    with ThreadPoolExecutor(default_threads()) as pool:
        return list(pool.map(lambda start: function(start, items[start : start + CHUNK]), starts))


def headers(paths):
    """What the headers of picture files say, or why a file cannot be used."""
    pillow()
    parts = in_threads(lambda _, part: [_header(path) for path in part], paths)
    return [header for part in parts for header in part]


def decode(paths, out, resize):
    """Writes the pixels of picture files to `out`, bytes (n, h, w, c). Returns why files cannot be used. resize:
    whether pictures of other sizes are resized."""
    return [problem for i, path in enumerate(paths) if (problem := _decoded(path, out[i], resize)) is not None]


def damaged(paths):
    """Why files cannot be used whose headers are as they should be, in threads."""
    parts = in_threads(lambda _, part: [_damage(path) for path in part], paths)
    return [problem for part in parts for problem in part if problem is not None]


def _damage(path):
    with _problems(path, WHOLE) as problems, _opened(path) as picture:
        picture.load()
    return problems[0] if problems else None


def convert(pixels, out):
    """Resizes images, bytes (n, h, w, c), and makes them grey or coloured, as the shape of `out` demands."""
    image = pillow()

    def part(start, rows):
        for i, row in enumerate(rows, start):
            _write(image.fromarray(row[..., 0] if row.shape[-1] == 1 else row), out[i])

    in_threads(part, pixels)


class _Unusable(Exception):
    """A picture that Pillow reads, but that is refused. Its arguments: what was expected and what came."""


@contextlib.contextmanager
def _problems(path, expected):
    """Context in which a library reads a file: whatever it raises becomes a Problem in the list that this yields."""
    found = []
    image = pillow()
    try:
        yield found
    except MemoryError:
        raise
    except _Unusable as error:
        found.append(Problem(path, *error.args))
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        found.append(Problem(path, "a picture that is no decompression bomb", str(error).rstrip(".")))
    except image.UnidentifiedImageError:
        found.append(Problem(path, expected, "other contents"))
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        if isinstance(error, OSError) and error.strerror:
            found.append(Problem(path, "a file that can be read", error.strerror))
        else:
            found.append(Problem(path, expected, _first_line(error)))


def _first_line(error):
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _header(path):
    with _problems(path, A_PICTURE) as problems, _opened(path) as picture:
        width, height = picture.size
        size = (width, height) if _orientation(picture) >= 5 else (height, width)
        return Header(size, picture.mode in GREY, picture.has_transparency_data)
    return problems[0]


def _decoded(path, out, resize):
    with _problems(path, WHOLE) as problems, _opened(path) as picture:
        orientation = _orientation(picture)
        if resize:  # a JPEG file may be decoded at a fraction of its size, here to at least twice the size of `out`
            height, width = (2 * n for n in out.shape[:2])
            picture.draft(None, (height, width) if orientation >= 5 else (width, height))
        upright = _opaque(picture)
        if orientation in UPRIGHT:
            upright = upright.transpose(pillow().Transpose[UPRIGHT[orientation]])
        if not resize and upright.size != (out.shape[1], out.shape[0]):
            raise _Unusable(f"{size_text(out.shape)} pixels (height x width)", size_text(upright.size[::-1]))
        _write(upright, out)
    return problems[0] if problems else None


@contextlib.contextmanager
def _opened(path):
    """Context of a picture whose header is read and checked."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # to open a pipe may wait for ever
        raise _Unusable(A_PICTURE, "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device")
    if found.st_size == 0:
        raise _Unusable(A_PICTURE, "an empty file")
    image = pillow()
    with image.open(path, formats=FORMATS) as picture:
        limit = image.MAX_IMAGE_PIXELS
        if limit is not None and picture.width * picture.height > limit:
            got = f"{picture.width * picture.height:,}"
            raise _Unusable(f"at most {limit:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)", got)
        # Pillow reads colours of 16 bits as mode RGB, and keeps the higher half of the bits; the tile tells.
        is_deep = ";16" in f"{picture.mode}{[tile[-1] for tile in picture.tile]}"
        if picture.mode not in (*GREY, *COLOUR) or is_deep:
            expected = "8 bits a channel, grey or coloured (modes L, RGB, P, RGBA, ...)"
            raise _Unusable(expected, f"{'16 bits a channel, ' if is_deep else ''}mode {picture.mode!r}")
        if getattr(picture, "is_animated", False) and picture.format != "MPO":  # MPO is a photo beside its previews
            raise _Unusable("one picture", f"{picture.n_frames} pictures in one {picture.format} file")
        yield picture


def _orientation(picture):
    """The EXIF orientation, 1 to 8, that is left to do. TIFF's decoder does it itself; for PNG `getexif` would decode
    the picture to look for EXIF data behind the pixels."""
    if picture.format == "TIFF" or (picture.format == "PNG" and "exif" not in picture.info):
        return 1
    found = picture.getexif().get(ORIENTATION, 1)
    return found if found in UPRIGHT else 1


def _opaque(picture):
    """The picture in front of white, if it may be transparent."""
    if not picture.has_transparency_data:
        return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode in GREY else "RGB")
    is_grey, image = picture.mode in GREY, pillow()
    picture = picture.convert("RGBA")
    picture = image.alpha_composite(image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if is_grey else "RGB")


def _write(picture, out):
    """Writes a picture to `out`, bytes (h, w, c)."""
    height, width, channels = out.shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), pillow().Resampling.BILINEAR)
    out[...] = np.asarray(picture).reshape(out.shape)
