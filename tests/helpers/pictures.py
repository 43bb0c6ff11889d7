"""Hostile pictures: inputs on which decoders have crashed, hung or run out of memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
_MEGA = 1024 * 1024


def picture(file_format: str, mode: str = "RGB", size: tuple[int, int] = (48, 64), **options: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Return a PNG chunk."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, rest: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *rest))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a PNG that holds `chunks` between its header and its pixels."""
    pixels = zlib.compress((b"\0" + b"\x80" * 3 * size[0]) * size[1])
    return PNG + ihdr(*size) + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def riff(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a WebP."""
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def bomb(megabytes: int) -> bytes:
    """Return `megabytes` MiB of zero bytes, deflated to a thousandth: one deflated MiB, repeated."""
    deflate = zlib.compressobj(9, wbits=-15)
    block = deflate.compress(bytes(_MEGA)) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = (megabytes * _MEGA % 65521) << 16 | 1  # Adler-32 of zeros
    return b"\x78\xda" + block * megabytes + b"\x03\0" + struct.pack(">I", checksum)


def hostile_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield pairs of a description and a picture's bytes, each below the upload limit of 10 MiB."""
    yield from _cut_and_damaged()
    yield from _pngs()
    yield from _jpegs()
    yield from _webps()
    yield from _other_formats()


def _cut_and_damaged() -> Iterator[tuple[str, bytes]]:
    whole = {
        "PNG": picture("PNG"),
        "interlaced PNG": png(),
        "JPEG": picture("JPEG"),
        "progressive JPEG": picture("JPEG", progressive=True),
        "WebP": picture("WEBP"),
        "lossless WebP": picture("WEBP", "RGBA", lossless=True),
    }
    for name, data in whole.items():
        for part in (1, 2, 4, 7, 8, 11, 12, 16, 20, 24, 29, 33, 40, 60, len(data) // 2, len(data) - 12, len(data) - 1):
            yield f"{name} cut after {part} bytes", data[:part]
        for position in range(8, min(len(data), 400), 40):
            damaged = bytearray(data)
            damaged[position] ^= 0xFF
            yield f"{name} with byte {position} turned", bytes(damaged)
        yield f"{name} with rubbish behind", data + b"\xff" * 100_000
        yield f"{name} twice", data * 2


def _pngs() -> Iterator[tuple[str, bytes]]:
    small = bomb(256)
    text = b"Comment\0\0"
    yield "zTXt bomb", png(chunk(b"zTXt", text + small))
    yield "iTXt bomb", png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + small))
    yield "iCCP bomb", png(chunk(b"iCCP", b"icc\0\0" + small))
    yield "many text bombs", png(*[chunk(b"zTXt", text + bomb(1)[:-4])] * 200)
    yield "IDAT bomb", PNG + ihdr(8, 8) + chunk(b"IDAT", bomb(1024)) + chunk(b"IEND", b"")
    for size in ((65500, 65500), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0), (2**32 - 1, 5)):
        lying = PNG + ihdr(*size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
        yield f"PNG that claims {size[0]} x {size[1]}", lying
    yield (
        "PNG of 64 megapixels, all there",
        PNG + ihdr(8192, 8192) + chunk(b"IDAT", bomb(193)) + chunk(b"IEND", b""),
    )
    yield "PNG one pixel high, 64 megapixels wide", PNG + ihdr(2**26, 1, colour=0) + chunk(b"IDAT", bomb(65))
    yield "PNG one pixel wide, 64 megapixels high", PNG + ihdr(1, 2**26, colour=0) + chunk(b"IDAT", bomb(129))
    for depth in (0, 1, 3, 16, 255):
        for colour in (0, 1, 2, 3, 4, 6, 7):
            data = PNG + ihdr(4, 4, depth, colour) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
            yield f"PNG of depth {depth} and colour type {colour}", data
    for rest in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (9, 9, 9)):
        yield f"PNG with methods {rest}", PNG + ihdr(8, 8, rest=rest) + chunk(b"IDAT", zlib.compress(bytes(400)))
    yield "PNG with a wrong checksum", PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), crc=1)
    yield "PNG with a chunk of 4 GB announced", PNG + ihdr(8, 8) + struct.pack(">I", 2**32 - 1) + b"tEXt" + b"a" * 100
    yield "PNG without pixels", PNG + ihdr(8, 8) + chunk(b"IEND", b"")
    yield "PNG with two headers", PNG + ihdr(8, 8) + png()[8:]
    yield "PNG with 100,000 empty chunks", png(chunk(b"teSt", b"") * 100_000)
    yield "PNG with 100,000 empty IDATs", PNG + ihdr(8, 8) + chunk(b"IDAT", b"") * 100_000 + chunk(b"IEND", b"")
    yield "PNG with a broken profile", png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"\xff" * 1000)))
    yield "PNG with broken EXIF", png(chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 1000))
    yield (
        "PNG with EXIF that points to itself",
        png(chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0")),
    )
    yield "palette PNG without a palette", PNG + ihdr(8, 8, 8, 3) + chunk(b"IDAT", zlib.compress(bytes(72)))
    control = b"".join(
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * n, 8, 8, 0, 0, 1, 100, 0, 0))
        + chunk(b"fdAT", struct.pack(">I", 2 * n + 1) + zlib.compress(bytes(200)))
        for n in range(10_000)
    )
    yield "APNG of 10,000 frames", png(chunk(b"acTL", struct.pack(">II", 10_000, 0)), control)
    yield "APNG that claims four billion frames", png(chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)))


def _jpegs() -> Iterator[tuple[str, bytes]]:
    plain = picture("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + b"A" * (65533 - 6)
    yield "JPEG with 9.9 MiB of EXIF", plain[:2] + segment * 158 + plain[2:]
    profile = b"".join(
        b"\xff\xe2" + struct.pack(">H", 65535) + b"ICC_PROFILE\0" + bytes([n % 256, 255]) + b"p" * (65533 - 14)
        for n in range(150)
    )
    yield "JPEG with 9.8 MiB of colour profile", plain[:2] + profile + plain[2:]
    yield "JPEG with two million fill bytes", plain[:2] + b"\xff" * 2_000_000 + plain[2:]
    frame = plain.index(b"\xff\xc0")
    for width, height in ((65500, 65500), (65535, 1), (1, 65535), (0, 0), (0, 64), (8192, 8191)):
        lying = plain[: frame + 5] + struct.pack(">HH", height, width) + plain[frame + 9 :]
        yield f"JPEG that claims {width} x {height}", lying
    progressive = picture("JPEG", size=(500, 500), progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    yield "progressive JPEG of thousands of scans", progressive[:scan] + progressive[scan:-2] * 3000 + progressive[-2:]
    large = picture("JPEG", size=(4000, 4000), progressive=True)
    scan = large.rindex(b"\xff\xda")
    many = large[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x10" * 300_000
    yield "progressive JPEG of 16 megapixels and 300,000 empty scans", many + large[-2:]
    yield "CMYK JPEG", picture("JPEG", "CMYK")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02"
    cmyk = picture("JPEG", "CMYK")
    yield "YCCK JPEG", cmyk[:2] + adobe + cmyk[2:]
    yield "grey JPEG", picture("JPEG", "L")
    yield "JPEG with a broken profile", picture("JPEG", icc_profile=b"\xff" * 5000)
    yield "JPEG with broken EXIF", picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff")
    yield "JPEG with an orientation that there isn't", picture("JPEG", exif=_orientation(99))
    yield "JPEG without tables", plain[:2] + plain[frame:]
    yield "JPEG of arithmetic coding", plain.replace(b"\xff\xc0", b"\xff\xc9", 1)
    yield "lossless JPEG", plain.replace(b"\xff\xc0", b"\xff\xc3", 1)
    yield "start and end of a JPEG", b"\xff\xd8\xff\xd9"


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _webps() -> Iterator[tuple[str, bytes]]:
    bitstream = picture("WEBP", "RGBA", (8, 8), lossless=True)
    vp8l = bitstream[bitstream.index(b"VP8L") :]
    frame = riff(b"ANMF", struct.pack("<HBHB", 0, 0, 0, 0) + b"\x07\0\0\x07\0\0" + b"\x64\0\0\0" + vp8l)
    head = riff(b"VP8X", b"\x12\0\0\0" + b"\x07\0\0\x07\0\0") + riff(b"ANIM", bytes(6))
    body = head + frame * 10_000
    yield "animated WebP of 10,000 frames", b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    canvas = riff(b"VP8X", b"\x12\0\0\0" + b"\xff\x3f\0\xff\x3f\0") + riff(b"ANIM", bytes(6)) + frame * 10
    yield "animated WebP on 16384 x 16384", b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas
    file = io.BytesIO()
    Image.new("RGBA", (8192, 8192), "#12345678").save(file, "WEBP", lossless=True, quality=0, method=0)
    yield "WebP of 64 megapixels", file.getvalue()
    yield "WebP with a wrong length", b"RIFF" + b"\xff\xff\xff\xff" + bitstream[8:]
    yield "WebP of length 0", b"RIFF" + bytes(4) + bitstream[8:]
    yield "WebP without pixels", b"RIFF\x16\0\0\0WEBP" + riff(b"VP8X", b"\x02\0\0\0" + b"\x07\0\0\x07\0\0")


def _other_formats() -> Iterator[tuple[str, bytes]]:
    for file_format in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "EPS", "PDF", "DDS"):
        yield file_format, picture(file_format)
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "HTML behind a PNG", png() + b"<script>alert(1)</script>"
    yield "HTML inside a PNG", png(chunk(b"tEXt", b"Comment\0<script>alert(1)</script>"))
    yield "ZIP behind a JPEG", picture("JPEG") + b"PK\x05\x06" + bytes(18)
    yield "HTML", b"<html><script>alert(1)</script>"
    yield "zeros", bytes(_MEGA)
    yield "one byte", b"\x89"
    yield "a signature alone", PNG
