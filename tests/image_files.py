"""What tests of decoding share: made pixels, orientations, and files that Pillow does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """RGB that differs in every direction and channel, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


def colour(image: Tensor) -> list[int]:
    """The one colour of a uniform image."""
    assert (image == image[:, :1, :1]).all()
    return image[:, 0, 0].tolist()


def as_seen(stored: np.ndarray, orientation: int | None) -> np.ndarray:
    """Stored pixels, (H, W, ...), as they are to be shown, in the words of EXIF's standard.

    Numbers other than 2 to 8 turn nothing.
    """
    seen = stored.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else stored
    seen = seen[:, ::-1] if orientation in (2, 3, 6, 7) else seen  # something begins on the right
    return seen[::-1] if orientation in (3, 4, 7, 8) else seen  # or at the bottom


def save_png_16_bit(path: Path, values: np.ndarray) -> None:
    """Pillow writes no 16-bit RGB, so the file is put together by hand, of values (H, W, 3)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def save_bmp_with_alpha(path: Path, rgba: np.ndarray) -> Path:
    """Pillow writes none: 32 bits a pixel with a mask for each channel."""
    height, width, _ = rgba.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = (width, -height, 1, 32, 3, rgba.size, 0, 0, 0, 0)
    header = struct.pack("<IiiHHIIiiII", 108, *size) + masks + bytes(52)
    start = struct.pack("<2sIHHI", b"BM", 14 + len(header) + rgba.size, 0, 0, 14 + len(header))
    path.write_bytes(start + header + rgba[..., [2, 1, 0, 3]].tobytes())
    return path


def save_tiff(path: Path, shape: tuple[int, int, int], data: bytes, bits: int) -> Path:
    """What Pillow does not write: (H, W, C) values of any depth."""
    height, width, bands = shape
    entries = [
        *((256, width), (257, height), (258, bits), (259, 1), (262, 2 if bands == 3 else 1)),
        *((273, 8), (277, bands), (278, height), (279, len(data))),
    ]
    ifd = b"".join(struct.pack("<HHII", tag, 4 if tag > 272 else 3, 1, n) for tag, n in entries)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(start + data + struct.pack("<H", len(entries)) + ifd + bytes(4))
    return path
