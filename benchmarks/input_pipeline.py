"""The stream alone: images/s, stage by stage, and against other pipelines.

python benchmarks/input_pipeline.py --config.data.source=folder:photos \\
    --torch_path=DIR --opencv_path=DIR
python benchmarks/input_pipeline.py --config=moco_cifar10 \\
    --config.data.source=folder:cifar10/train

Two finished views of every image, normalised to float, on the host. DIR holds
torch and torchvision (pip install --target=DIR torch==2.13.0, and
--no-deps torchvision==0.28.0); --torch_python names another interpreter. The
same files go through torchvision and Pillow with 2 DataLoader workers, in
turn. Without either flag that row is left out. --opencv_path names a folder
with OpenCV and simplejpeg (pip install --target=DIR opencv-python-headless
simplejpeg): what an expert writes by hand, with 2 threads. --before names a
checkout of an earlier version, whose stream takes its turns too, by the same
interpreter. The table shows what each stage costs by leaving it out; --brief
leaves that out. Ratios are by the clock and, where a process can say it, by the
processor's time, which holds on a busy machine too.
"""

import functools
import os
import pathlib
import statistics
import subprocess
import sys

import measure

from moco_tf.cli import quiet

HERE = pathlib.Path(__file__).parent
NAMES = {
    "views": "two views",
    "crops": "decode and two crops",
    "decode": "read and decode",
    "torchvision": "torchvision + Pillow, 2 workers",
    "OpenCV": "OpenCV by hand, 2 threads",
    "before": "two views, earlier version",
}


def main():
    parser = measure.parser("The stream alone.", "moco_v2_imagenet")
    parser.add_argument(
        "--images", type=int, default=1280, help="a round [1280]"
    )
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    parser.add_argument("--torch_path", default="", help="folder with torch")
    parser.add_argument("--torch_python", default="")
    parser.add_argument("--opencv_path", default="", help="folder with OpenCV")
    parser.add_argument(
        "--torch_folder", default="", help="their files [those of the source]"
    )
    parser.add_argument("--before", default="", help="an earlier checkout")
    parser.add_argument(
        "--brief", action="store_true", help="without the single stages"
    )
    options, config = measure.parse(parser, measure.INPUT)
    with quiet.imports():
        import finished_views

        from moco_tf.data import sources
    finished_views.on_host(config)  # as torchvision makes them
    source = sources.open_source(config.data.source)
    runs = {
        name: finished_views.FinishedViews(config, source, options.images, both)
        for name, both in stages(config.data.views).items()
        if name == "views" or not options.brief
    }
    others = start_others(options, config)
    ours = {"views": runs["views"], **others}
    for name, other in others.items():
        runs[name] = functools.partial(other.seconds, options.images)
    seconds = measure.alternate(runs, options.rounds)
    _report(seconds, options, config)
    for name in others:
        _compare(name, seconds, ours)
    for other in others.values():
        other.close()


def start_others(options, config):
    """The other pipelines that the options name, dict name -> Other."""
    folder = options.torch_folder or config.data.source.removeprefix("folder:")
    words = [f"--folder={folder}", f"--size={config.data.image_size}"]
    others = {}
    if options.torch_path or options.torch_python:
        python = options.torch_python or sys.executable
        command = [python, str(HERE / "torch_input.py"), *words]
        others["torchvision"] = Other(command, options.torch_path)
    if options.opencv_path:
        words.append(f"--batch={config.train.batch_size}")
        words.append(
            "--recipe=" + ("v2", "cifar")[config.data.views == "cifar"]
        )
        command = [sys.executable, str(HERE / "opencv_input.py"), *words]
        others["OpenCV"] = Other(command, options.opencv_path)
    if options.before:
        words = [x for x in sys.argv[1:] if x.startswith("--config")]
        command = [sys.executable, str(HERE / "finished_views.py"), *words]
        command.append(f"--cores={options.cores}")
        others["before"] = Other(command, options.before)
    return others


class Other:
    """Another pipeline, in a process that rests between its turns.

    Attributes:
      processor: list of float, seconds of that process, or empty.
    """

    def __init__(self, command, path):
        """Starts it; exits where it cannot start.

        Args:
          command: list of str. path: folder of its packages, or "".
        """
        self.processor = []
        self._process = subprocess.Popen(
            command,
            env=dict(os.environ, PYTHONPATH=path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            sys.exit(f"{command[1]} did not start: see its first lines")

    def seconds(self, images):
        """The seconds that so many images take."""
        print(images, file=self._process.stdin, flush=True)
        seconds, *processor = self._process.stdout.readline().split()
        self.processor.extend(float(x) for x in processor)
        return float(seconds)

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(60)


def stages(name):
    """Both functions of a recipe by what they leave in; all of it first."""
    import tensorflow as tf

    from moco_tf.data import views

    both = views.RECIPES[name].both
    off = dict.fromkeys(("jitter", "gray", "blur", "solarize"), 0.0)

    def decoded(image, size, seed):
        del seed
        # Reads the image, so that it must be there.
        corner = tf.cast(image[0, 0], tf.uint8)
        return tf.broadcast_to(corner, [size, size, 3])

    return {
        "views": both,
        "crops": [augment._replace(**off) for augment in both],
        "decode": (decoded, decoded),
    }


def _report(seconds, options, config):
    medians = measure.medians(seconds)
    print(
        f"{config.data.views} views at {config.data.image_size} px, "
        f"{options.cores or 'all'} cores, median of {options.rounds} rounds"
    )
    for name, median in medians.items():
        rates = sorted(options.images / s for s in seconds[name])
        print(
            f"  {NAMES[name]:<33}{options.images / median:>8.0f} images/s "
            f"({rates[0]:.0f} to {rates[-1]:.0f})"
        )
    if options.brief:
        return
    costs = {
        "read and decode": medians["decode"],
        "two crops": medians["crops"] - medians["decode"],
        "colour, blur, flip": medians["views"] - medians["crops"],
    }
    for name, cost in costs.items():
        print(f"  {name:<33}{1e3 * cost / options.images:>8.2f} ms an image")


def _compare(name, seconds, runs):
    """Prints how many times as fast as another pipeline ours is."""
    clocks = {"by the clock": (seconds[name], seconds["views"])}
    if runs[name].processor:
        processor = runs[name].processor, runs["views"].processor
        clocks["by processor time"] = processor
    for clock, both in clocks.items():
        ratios = [theirs / ours for theirs, ours in zip(*both, strict=True)]
        print(
            f"{statistics.median(ratios):.2f} times {name} {clock} (rounds "
            f"{min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
