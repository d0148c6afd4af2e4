"""A data set of a few small images, made here: what the simulated device is given, on which real photographs take long."""

import random
import struct
import zlib

CLASSES = 4
IMAGES = {"train": 4, "val": 2}  # per class
SIDE = 40  # pixels


def png(rows):
    """A PNG of 8-bit RGB rows (the PNG specification, third edition, section 5)."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make(folder):
    """Fills `folder` as `verydeep pack --images` reads it. Always the same images: a colour per class, and noise."""
    draw = random.Random(1)
    for split, count in IMAGES.items():
        for name in range(CLASSES):
            (folder / split / f"class{name}").mkdir(parents=True)
            for number in range(count):
                colour = [60 * name + 20, 200 - 40 * name, 100]
                row = [bytes(min(255, c + draw.randrange(40)) for c in colour * SIDE) for _ in range(SIDE)]
                (folder / split / f"class{name}" / f"{number}.png").write_bytes(png(row))
