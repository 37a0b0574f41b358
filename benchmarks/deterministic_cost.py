"""What --deterministic costs: `moco-tf benchmark` with it and without it.

    python benchmarks/deterministic_cost.py --config=moco_cifar10 \\
        --config.data.source=folder:cifar10/train

In turn, each time in a process of its own: the setting lasts as long as its
process. Other words go to `moco-tf benchmark`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import measure

PARTS = ("input", "step", "both")


def images_per_second(words):
    """Runs `benchmark`; returns the figures by part."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "figures.json")
        command = [sys.executable, "-m", "moco_tf", "benchmark", *words]
        subprocess.run(
            [*command, f"--json={path}"], check=True, stdout=subprocess.DEVNULL
        )
        figures = json.loads(path.read_text())
    return {part: figures[f"{part}_images_per_second"] for part in PARTS}


def main():
    parser = argparse.ArgumentParser(
        description="What --deterministic costs.", allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=4, help="[4]")
    options, words = parser.parse_known_args()
    if not any(word.startswith("--config.data.source=") for word in words):
        parser.error("give images: --config.data.source=folder:PATH")
    rates = {"plain": [], "deterministic": []}

    def seconds(name, flags):
        rates[name].append(images_per_second([*words, *flags]))
        return 1000 / rates[name][-1]["both"]  # of a thousand images

    measure.alternate(
        {
            "plain": lambda: seconds("plain", []),
            "deterministic": lambda: seconds(
                "deterministic", ["--deterministic"]
            ),
        },
        options.rounds,
    )
    for part in PARTS:
        rate = measure.medians(
            {name: [r[part] for r in rows] for name, rows in rates.items()}
        )
        print(
            f"{part:<6}{rate['plain']:>8.1f} images/s, deterministic "
            f"{rate['deterministic']:.1f}: time x "
            f"{rate['plain'] / rate['deterministic']:.2f}"
        )


if __name__ == "__main__":
    main()
