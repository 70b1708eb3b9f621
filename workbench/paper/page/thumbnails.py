"""Small pictures of expressions, as data: addresses: the image with its referent's outline, and predictions over it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from workbench.paper.figures.panels import greyed
from workbench.paper.style import PREDICTION

SIDE = 168
"""The most pixels of a thumbnail's longer side. A small image is enlarged by a whole factor, a large one reduced."""
OPACITY = 0.6
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data: address, and its size in pixels."""

    address: str
    width: int
    height: int


def thumbnail(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8] | None = None
) -> Thumbnail:
    """A small picture of an expression.

    Args:
        image: height×width×3.
        truth: the referent's mask, height×width; its outline is drawn white on black.
        predicted: a mask laid over the greyed image; None: the image in its colours.
    """
    pixels = _resized(image)
    if predicted is not None:
        inside = _resized_mask(predicted, pixels.shape[:2])
        colour = np.array(to_rgb(PREDICTION)) * 255
        pixels = (255 * greyed(pixels)).round().astype(np.uint8)
        pixels[inside] = (pixels[inside] * (1 - OPACITY) + colour * OPACITY).astype(np.uint8)
    inner, outer = _outline(_resized_mask(truth, pixels.shape[:2]))
    pixels[outer], pixels[inner] = 0, 255
    return Thumbnail(_address(pixels), pixels.shape[1], pixels.shape[0])


def data_address(content: bytes, kind: str) -> str:
    """Bytes of a picture as a data: address; kind: png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def encoded(image: Image.Image, kind: str) -> bytes:
    """A picture as PNG or JPEG; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _address(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    png, jpeg = encoded(image, "png"), encoded(image, "jpeg")
    return data_address(png, "png") if len(png) <= len(jpeg) else data_address(jpeg, "jpeg")


def _resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= SIDE:
        factor = SIDE // longer
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (max(1, round(width * SIDE / longer)), max(1, round(height * SIDE / longer)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _resized_mask(mask: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    image = Image.fromarray((mask > 0).astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.BOX)
    resized: NDArray[np.bool_] = np.asarray(image) >= 128
    return resized


def _outline(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The line along a mask's edge, inside of it, and a line around that one."""
    from scipy import ndimage

    inner = mask & ~ndimage.binary_erosion(mask, border_value=0)
    return inner, ndimage.binary_dilation(mask) & ~mask
