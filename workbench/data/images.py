"""Image files: where they are, their size without decoding, and their pixels; only formats that photographs come in."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from workbench.data.masks import MOST_PIXELS
from workbench.data.tables import ReferData
from workbench.errors import DataError
from workbench.files import Unreadable, open_file, read_file

if TYPE_CHECKING:
    import torch

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
IMAGE_FOLDERS = ("images", "../images/train2014", "../images/mscoco/images/train2014", "../images/coco", "../train2014")
"""Where images are looked for, relative to the annotations' folder."""


def image_size(file: Path) -> tuple[int, int]:
    """Height and width from the file's header; DataError where there is none."""
    try:
        with warnings.catch_warnings(), open_file(file) as stream, Image.open(stream, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            return image.height, image.width
    except FileNotFoundError:
        raise DataError(f"missing image {file.name} in {file.parent}") from None
    except Unreadable as error:
        raise DataError(str(error)) from None
    except Exception as error:  # Pillow raises many types of error for a broken file
        raise DataError(f"{file}: image cannot be decoded: {_named(error)}") from None


def read_pixels(file: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """The pixels, 3×height×width uint8.

    JPEG is decoded by torchvision, to the same pixels as by Pillow and faster; all else by Pillow.

    Args:
        size: height and width that it must have; checked before anything is decoded.

    Raises:
        DataError: the file is missing, cut short, no image, or of another size.
    """
    import torch

    try:
        content = read_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_size(file, (image.height, image.width), size)
            if image.format == "JPEG":
                return _decode_jpeg(content)
            return torch.from_numpy(np.array(_in_eight_bits(image).convert("RGB"))).permute(2, 0, 1)
    except FileNotFoundError:
        raise DataError(f"missing image {file.name} in {file.parent}") from None
    except Unreadable as error:
        raise DataError(str(error)) from None
    except DataError:
        raise
    except Exception as error:  # both raise many types of error for a broken file
        raise DataError(f"{file}: image cannot be decoded: {_named(error)}") from None


def read_image(file: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The pixels, height×width×3; see `read_pixels`."""
    return read_pixels(file, size).permute(1, 2, 0).contiguous().numpy()


def read_upright(file: Path) -> NDArray[np.uint8]:
    """The pixels, height×width×3, turned as the camera says in EXIF; data sets are read as they are stored instead.

    Raises:
        DataError: see `read_pixels`.
    """
    pixels = read_image(file)
    turn = _turn_of(file)
    if turn == 1:
        return pixels
    turned = Image.fromarray(pixels)
    turned.getexif()[ExifTags.Base.Orientation] = turn
    return np.array(ImageOps.exif_transpose(turned))


def _turn_of(file: Path) -> int:
    """The orientation that EXIF names, from 1 (as it is stored) to 8; 1 where it names none that there is."""
    try:
        with warnings.catch_warnings(), open_file(file) as stream, Image.open(stream, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types of error for damaged EXIF, beside which the pixels may be whole
        return 1
    return turn if type(turn) is int and 1 <= turn <= 8 else 1


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 bits as greys of 8, of which Pillow would cut off all but the darkest."""
    if not image.mode.startswith("I"):
        return image
    levels = np.array(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))


def _decode_jpeg(content: bytes) -> torch.Tensor:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return pixels


def _check_size(file: Path, actual: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected is not None and actual != expected:
        raise DataError(
            f"{file}: the image is {actual[0]}×{actual[1]}, its annotation says {expected[0]}×{expected[1]}"
        )
    if actual[0] * actual[1] > MOST_PIXELS:
        raise DataError(f"{file}: an image of {actual[0]}×{actual[1]} pixels; at most {MOST_PIXELS:,} in all are read")


def _named(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # it would name the file again, or an object's address
        return f"it is none of {', '.join(FORMATS)}"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    # torchvision names its own source file before the reason.
    return text.rpartition(": ")[2][:200] if "decode_jpeg" in text else text[:200]


def find_image_folder(folder: Path) -> Path:
    """The image folder that belongs to a folder of annotations; DataError names the places that were searched."""
    # ".." is not resolved: in the released form the folder of annotations may not exist.
    beside = [Path(os.path.normpath(folder / name)) for name in IMAGE_FOLDERS]
    # Where the folder is a link, images may also lie beside what it leads to.
    places = list(dict.fromkeys([*beside, *((folder.resolve() / name).resolve() for name in IMAGE_FOLDERS)]))
    image_folder = next((place for place in places if place.is_dir()), None)
    if image_folder is None:
        raise DataError(f"missing image folder of {folder}; looked for {', '.join(map(str, places))}")
    return image_folder


def check_images_are_there(data: ReferData) -> None:
    """DataError names the first image that an expression needs and that is not in its folder."""
    rows = pc.unique(data.expressions["image_row"]).to_numpy()
    names = data.images["file_name"].take(np.sort(rows)).to_pylist()
    present: set[str] = set()
    for inside in {name.rpartition("/")[0] for name in names}:  # several of a joint data set, else the folder itself
        with os.scandir(data.image_folder / inside) as entries:
            present |= {f"{inside}/{entry.name}" if inside else entry.name for entry in entries}
    missing = [name for name in names if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"missing image {missing[0]}{more} in {data.image_folder}")
