"""`vgg weights`."""

import json
from dataclasses import dataclass

from vggnet.cli.parsing import parse_only

USAGE = """usage: vgg weights list [--json]

Trained weights that come with the package. A name from the list stands for a model in `vgg test`, `vgg predict`,
`vgg train --init-from` and `vggnet.load`.

Example: vgg weights list --json"""


@dataclass(frozen=True, kw_only=True)
class List:
    """List the weights that come with the package: what they are, what they learnt, how good they are.

    Example: vgg weights list --json
    """

    json: bool = False  # print a JSON list of objects


def main(arguments: list[str]) -> int:
    """List; returns the exit code."""
    args: List | None = parse_only(List, "list", arguments, prog="vgg weights", usage=USAGE)
    if args is None:
        return 0
    from vggnet.weights.named import card, names

    cards = [card(name) for name in names()]
    if args.json:
        print(json.dumps([card.as_dict() for card in cards]))
        return 0
    for found in cards:
        accuracy = f"{100 * found.top1:.2f} % of {found.test_images:,} test images"
        print(
            f"{found.name}  {found.model} of width {found.width:g}, {found.num_classes} classes, {found.megabytes} MB"
        )
        print(f"  preset {found.preset} on {found.data}: {accuracy}, {100 * found.top1_six_views:.2f} % by six views")
    return 0
