"""Images: broken, of other formats, larger than they may be."""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable

from tests.data.fixtures import square
from tests.data.fuzzing.cases import HEIGHT, IMAGE, INSTANCES, WIDTH, Case, instances, kind, of_file, picture, pristine
from tests.data.fuzzing.damages import hurt
from tests.data.fuzzing.writing import as_json


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, body: bytes = b"", more: bytes = b"", colour: int = 2, depth: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", body or zlib.compress(bytes(600))) + chunk(b"IEND", b"")


@functools.cache
def bomb(side: int) -> bytes:
    """A sound, black, grey image whose file is a thousandth of its pixels."""
    rows = zlib.compressobj(1)
    body = b"".join(rows.compress(bytes((side + 1) * 256)) for _ in range(side // 256)) + rows.flush()
    return png(side, side, body, colour=0)


def sized_jpeg(width: int, height: int) -> bytes:
    raw = bytearray(picture())
    at = raw.index(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


PICTURES: tuple[Callable[[], bytes], ...] = (
    lambda: b"",
    lambda: b"no picture",
    lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    lambda: picture("GIF"),
    lambda: picture("TIFF"),
    lambda: picture("EPS"),
    lambda: picture("PDF"),
    lambda: picture("ICO"),
    lambda: picture("BMP"),
    lambda: picture("WEBP"),
    lambda: picture("PNG"),
    lambda: picture("JPEG2000"),
    lambda: png(2**31 - 1, 2**31 - 1),
    lambda: png(2**32 - 1, 2**32 - 1),
    lambda: png(0, 0),
    lambda: png(65535, 65535),
    lambda: png(WIDTH, HEIGHT),
    lambda: png(WIDTH, HEIGHT, zlib.compress(bytes(10**8), 1)),
    lambda: png(WIDTH, HEIGHT, b"no stream"),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8), 1))),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 1))),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"tEXt", b"x\0" + b"y" * 10**6)),
    lambda: png(WIDTH, HEIGHT, more=struct.pack(">I", 2**31 - 1) + b"tEXt"),
    lambda: png(WIDTH, HEIGHT, colour=3),
    lambda: png(WIDTH, HEIGHT, colour=9),
    lambda: png(WIDTH, HEIGHT, depth=16),
    lambda: png(WIDTH, HEIGHT, depth=0),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    lambda: bomb(8192),
    lambda: sized_jpeg(65535, 65535),
    lambda: sized_jpeg(65500, 1),
    lambda: sized_jpeg(0, 0),
    lambda: sized_jpeg(8192, 8192),
    lambda: picture()[:2],
    lambda: picture()[:-2],
    lambda: picture() + b"\0" * 10**6,
    lambda: picture()[:200] + picture(),
    lambda: picture()[:2] + b"\xff\xe1\xff\xffExif\0\0" + picture()[2:],
    lambda: picture()[:2] + b"\xff\xfe\xff\xff" * 1000 + picture()[2:],
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, WIDTH, -HEIGHT, 1, 8, 1, 0, 0, 0, 2**31, 0),
    lambda: b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\xff" * 10,
)


@kind(len(PICTURES) * 2, more=False)
def pictures(rng: random.Random, seed: int) -> Case:
    return of_file(("prepare", "check")[seed % 2], "refs", IMAGE, PICTURES[seed // 2]())


@kind(6, more=False)
def bombs(rng: random.Random, seed: int) -> Case:
    """Large images of which the annotations tell the truth, but for what is inside."""
    side = 8192 if seed < 4 else 8448
    content = (bomb(side), png(side, side), sized_jpeg(side, side))[seed // 2 if seed < 4 else 2]
    document = instances()
    document["images"][0] |= {"height": side, "width": side}
    for annotation in document["annotations"][:3]:
        annotation["segmentation"] = [square(1, 1, 5)]
    files = pristine("refs") | {INSTANCES: as_json(document), IMAGE: content}
    return Case(("prepare", "check")[seed % 2], "refcoco", files)


@kind(120)
def bytes_of_images(rng: random.Random, seed: int) -> Case:
    content = picture(("JPEG", "PNG", "JPEG", "WEBP", "BMP")[seed % 5])
    # Half of the damage to the heads: that is where sizes are.
    content = hurt(rng, content[:64]) + content[64:] if rng.random() < 0.5 else hurt(rng, content)
    return of_file("prepare" if rng.random() < 0.3 else "check", "refs", IMAGE, content)
