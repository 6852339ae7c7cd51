"""How bytes that may be no text are spelled for people, so that what is printed can be typed again.

A key that is printable text is spelled as it is. Any other is `hex:` and its bytes; no key at all is `null:`. Text that
begins like either is spelled in hexadecimal too, so that no two keys have one spelling.
"""

import re
from hashlib import sha256

from pipeline.errors import Refused

HEX = "hex:"
NULL = "null:"
CHARACTERS_MAX = 256
_DIGEST = len("…sha256:") + 64
_CLIPPED = re.compile(r".+…sha256:[0-9a-f]{64}", re.DOTALL)


def spelled(key: bytes | None) -> str:
    """The one spelling of a key."""
    if key is None:
        return NULL
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return HEX + key.hex()
    plain = text.isprintable() and not text.startswith((HEX, NULL)) and text == text.strip()
    return text if plain else HEX + key.hex()


def key_of(text: str) -> str:
    """The spelling of the key that a user typed: as printed, or as it is. `Refused` for hexadecimal that is none."""
    if text == NULL or _CLIPPED.fullmatch(text):
        return text
    if not text.startswith(HEX):
        return clipped(spelled(text.encode("utf-8", "surrogateescape")))
    try:
        return clipped(spelled(bytes.fromhex(text.removeprefix(HEX))))
    except ValueError:
        raise Refused(
            f"--key {text}: behind {HEX} come the key's bytes in hexadecimal, as `list` prints them."
        ) from None


def clipped(text: str, characters: int = CHARACTERS_MAX) -> str:
    """Text of bounded length: what is longer is cut, and the digest of all of it stands for the rest. Twice is as once."""
    if len(text) <= characters or (len(text) == characters + _DIGEST and _CLIPPED.fullmatch(text)):
        return text
    return f"{text[:characters]}…sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
