"""All is declared in pyproject.toml; here is only what makes mim find an editable install."""

import base64
import hashlib
import re
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

PACKAGE = Path(__file__).resolve().parent / "pvt_mm"


class EditableWheel(editable_wheel):
    """An editable wheel whose ``top_level.txt`` leads to the checkout.

    mim and mmengine take a package's folder to be the first line of that file, joined to
    site-packages. An editable install has no such folder there; an absolute path outlives the
    join, and so they find the checkout, where ``pvt_mm/.mim`` links to configs and tools.
    """

    def run(self) -> None:
        """Build the wheel, then put the path into it."""
        super().run()
        for wheel in Path(self.dist_dir).glob("pvt_mm-*.whl"):
            _replace_file(wheel, ".dist-info/top_level.txt", f"{PACKAGE}\npvt_mm\n".encode())


def _replace_file(wheel: Path, ending: str, content: bytes) -> None:
    """Replace a file of a wheel, and its line in RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        entries = {info: archive.read(info) for info in archive.infolist()}
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    line = b"%s,sha256=%s,%d" % (ending.encode(), digest, len(content))
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries.items():
            if info.filename.endswith(ending):
                data = content
            elif info.filename.endswith(".dist-info/RECORD"):
                data = re.sub(re.escape(ending).encode() + rb",sha256=.*", line, data)
            archive.writestr(info, data)


setup(cmdclass={"editable_wheel": EditableWheel})
