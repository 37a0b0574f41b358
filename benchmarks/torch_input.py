"""Two MoCo v2 views of every image by torchvision and Pillow.

Run by benchmarks/input_pipeline.py in an interpreter that has torch and
torchvision. After "ready" on standard output it answers each line "N" on
standard input by the seconds that N images took, in batches of 64, after one
batch that fills the queues.
"""

import argparse
import pathlib
import random
import sys
import time

import torch

# torchvision's own operators are not needed; without a build of them for this
# torch, only their names are missed at import.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    try:
        _LIBRARY.define(
            f"{_name}(Tensor boxes, Tensor scores, float t) -> Tensor"
        )
    except RuntimeError as error:
        print(f"torchvision has its operators: {error}", file=sys.stderr)

import PIL.Image  # noqa: E402
import PIL.ImageFilter  # noqa: E402
from torchvision import transforms  # noqa: E402

BATCH = 64


class GaussianBlur:
    """Pillow's blur with a random sigma, as MoCo v2 has it."""

    def __call__(self, image):
        radius = random.uniform(0.1, 2.0)
        return image.filter(PIL.ImageFilter.GaussianBlur(radius=radius))


class TwoViews(torch.utils.data.Dataset):
    """Both views of a file, for ever."""

    def __init__(self, files, size):
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
        self.files = files
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                transforms.RandomApply([jitter], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([GaussianBlur()], p=0.5),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(
                    (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
                ),
            ]
        )

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        with open(self.files[index % len(self.files)], "rb") as file:
            image = PIL.Image.open(file).convert("RGB")
        return self.view(image), self.view(image)


def main():
    parser = argparse.ArgumentParser(description="torchvision's views.")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    files = sorted(
        path
        for path in pathlib.Path(options.folder).rglob("*")
        if path.suffix.lower() in (".jpeg", ".jpg", ".png")
    )
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        batches = iter(
            torch.utils.data.DataLoader(
                TwoViews(files, options.size),
                BATCH,
                num_workers=options.workers,
            )
        )
        for _ in range(options.workers + 1):
            next(batches)
        start = time.perf_counter()
        for _ in range(int(line) // BATCH):
            next(batches)
        print(time.perf_counter() - start, flush=True)
        del batches


if __name__ == "__main__":
    main()
