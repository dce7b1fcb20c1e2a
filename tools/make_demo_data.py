"""Write the synthetic demo data set; at once done if it is there already."""

import argparse

import _checkout  # noqa: F401

from pvt_mm.data.demo import DemoSpec, demo_root, make_demo_data


def main() -> None:
    default = DemoSpec()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", default=demo_root(), help="folder of the data set")
    parser.add_argument("--train", type=int, default=default.train, help="training images")
    parser.add_argument("--val", type=int, default=default.val, help="held-out images")
    parser.add_argument("--size", type=int, default=default.size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=default.seed)
    args = parser.parse_args()
    try:
        made = make_demo_data(args.out, DemoSpec(args.train, args.val, args.size, args.seed))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    state = "wrote" if made else "found"
    print(f"{state} {args.train} training and {args.val} validation images in {args.out}")


if __name__ == "__main__":
    main()
