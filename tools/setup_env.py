"""Create the project's virtual environment and install everything into it.

`make setup`, `make demo`, `make test` and `make lint` call this first. What is done already is
remembered in the environment itself, so a second run returns at once and an interrupted one goes
on where it stopped.
"""

# Up to the version check this file and envsetup/advice.py must parse and run on any Python 3.
import sys

OLDEST, NEWEST = (3, 10), (3, 14)


def python_problem(version):
    """Return one line about an unsupported Python version, or None."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    from envsetup import advice

    return "Python %d.%d is not supported, 3.10 to 3.14 is: %s" % (  # noqa: UP031
        version[0],
        version[1],
        advice.python(),
    )


if __name__ == "__main__" and python_problem(sys.version_info):
    sys.stderr.write("error: " + python_problem(sys.version_info) + "\n")
    sys.exit(2)

if __name__ == "__main__":
    from envsetup.steps import main

    sys.exit(main())
