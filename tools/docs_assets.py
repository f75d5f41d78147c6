"""Fetch the scripts that the documentation serves itself, from npm, each held against its SHA-512: `python
tools/docs_assets.py FOLDER`.
"""

import base64
import hashlib
import io
import sys
import tarfile
from pathlib import Path
from urllib.request import urlopen

#: URL of a package on npm, its `integrity` there, and the file that is taken from it.
ASSETS = [
    (
        "https://registry.npmjs.org/requirejs/-/requirejs-2.3.8.tgz",
        "sha512-7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
        "package/require.js",
        "require.min.js",
    ),
    (
        "https://registry.npmjs.org/@jupyter-widgets/html-manager/-/html-manager-1.0.15.tgz",
        "sha512-5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        "package/dist/embed-amd.js",
        "embed-amd.js",
    ),
    (
        "https://registry.npmjs.org/mathjax/-/mathjax-3.2.2.tgz",
        "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        "package/es5/tex-svg.js",
        "tex-svg.js",
    ),
]


def fetch(url: str, integrity: str, member: str) -> bytes:
    """One file of a package; `ValueError` where the package is not the one that was pinned."""
    data = urlopen(url, timeout=60).read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        raise ValueError(f"{url} has the integrity {found}; expected {integrity}.")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.extractfile(member).read()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for url, integrity, member, name in ASSETS:
        (folder / name).write_bytes(fetch(url, integrity, member))
