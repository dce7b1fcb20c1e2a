"""The page itself: a template with everything in it, so that one file is all there is."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from pvt_mm.errors import UserError

__all__ = ["check_libraries", "jpeg_uri", "render", "svg_uri"]

TEMPLATE = "report.html.j2"
JPEG_QUALITY = 85
NOTHING = "\N{EN DASH}"


def check_libraries() -> None:
    """Check that what makes the page is installed.

    Raises:
        UserError: If it is not.
    """
    try:
        import itables  # noqa: F401
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: python -m pip install itables jinja2"
        ) from None


def render(**content: Any) -> str:
    """Fill the template; whatever is no markup of its own is escaped.

    Args:
        content: What the template names.
    """
    from itables.utils import read_package_file
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template(TEMPLATE).render(
        **content,
        table_style=Markup(read_package_file("html/dt_bundle.css")),
        table_script=_data_uri(read_package_file("html/dt_bundle.js").encode(), "text/javascript"),
    )


def svg_uri(figure: Figure) -> str:
    """Return a figure as the address of a picture."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri(buffer.getvalue(), "image/svg+xml")


def jpeg_uri(image: np.ndarray) -> str:
    """Return an image, ``(H, W, 3)`` uint8 RGB, as the address of a picture."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _data_uri(encoded.tobytes(), "image/jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _number(value: Any) -> str:
    """Write a number as people read it; -1 is COCO's sign for "nothing to count"."""
    if value is None or value == -1:
        return NOTHING
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
