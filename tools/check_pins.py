"""Exit with a sentence for each pin in constraints.txt that does not support the oldest Python of `requires-python`.

Reads the metadata of the installed distributions, so that it works offline. A pin of nothing that is installed is
skipped: it may belong to another system.
"""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).parent.parent


def main() -> None:
    """Check the pins."""
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = re.fullmatch(r">=(\d+\.\d+)", required)
    if oldest is None:
        sys.exit(f"requires-python is {required!r}; this check understands '>=X.Y' alone")
    misfits = []
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        try:
            found = importlib.metadata.distribution(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
        supported = found.metadata["Requires-Python"]
        if found.version != version:
            misfits.append(f"{line} is pinned, but {found.version} is installed: run `make install`")
        elif supported and not SpecifierSet(supported).contains(f"{oldest[1]}.0"):
            misfits.append(f"{line} needs Python {supported}, and this project supports {required}: pin an older one")
    if misfits:
        sys.exit("constraints.txt: " + "\n".join(misfits))


if __name__ == "__main__":
    main()
