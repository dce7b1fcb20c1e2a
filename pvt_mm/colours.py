"""Colours that colour-blind people can tell apart."""

__all__ = ["OKABE_ITO"]

# Okabe and Ito, "Color Universal Design", 2008; red, green, blue from 0 to 255.
OKABE_ITO = {
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "bluish green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "blue": (0, 114, 178),
    "vermilion": (213, 94, 0),
    "reddish purple": (204, 121, 167),
}
