"""The files of the same name that a raster is read with: its mask, what tells its place, the header of a plain one.

town.tif    town.tif.msk, town.tif.aux.xml, town.tfw, town.wld, town.prj, town.hdr
"""

import hashlib
import re
from pathlib import Path

TOLD = ".aux.xml"  # by GDAL or ArcGIS, of a raster that cannot hold it
OF_ANY = (".wld", ".prj", ".hdr")
# With statistics GDAL copies there what the raster itself tells of its bands
BY_VIEWERS = re.compile(
    rb"<Histograms>.*?</Histograms>|<Description>.*?</Description>|<\?xml.*?\?>|(?<=>)\s+"
    rb"|<Metadata(?! domain=\"(?:RPC|GEOLOCATION|xml:ESRI)\")[^>]*(?:/>|(?<!/)>.*?</Metadata>)",
    re.DOTALL,
)
EMPTY = re.compile(rb"<(PAMRasterBand|PAMDataset)\b[^>]*(?:/>|></\1>)")


def ends(suffix: str) -> list[str]:
    """What their names have in place of the suffix: .tif.msk, .tif.aux.xml and .tfw of a .tif."""
    names = [f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", *OF_ANY]  # .tfw as ArcGIS calls it, .tifw as others do
    names = [name.lower() for name in names] + ([name.upper() for name in names] if suffix.isupper() else [])
    return [f"{suffix}.msk", f"{suffix}{TOLD}", *names]


def told_beside(path: Path) -> str:
    """The SHA-256 of what an .aux.xml tells; "" where it holds no more than the statistics that every viewer leaves."""
    text, found = BY_VIEWERS.sub(b"", path.read_bytes()), 1
    while found:
        text, found = EMPTY.subn(b"", text)
    return hashlib.sha256(text).hexdigest() if text else ""
