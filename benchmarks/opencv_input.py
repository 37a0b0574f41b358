"""Two MoCo v2 views of every image by OpenCV, as an expert writes them by hand.

Run by benchmarks/input_pipeline.py in an interpreter that has OpenCV and
simplejpeg (pip install --target=DIR opencv-python-headless simplejpeg). After
"ready" on standard output it answers each line "N" on standard input by the
seconds that N images took, in batches, after some that fill the queues, and by
those of the processor.

Threads decode and distort: both libraries let go of Python's lock. OpenCV
rounds to uint8 after each operation and its areas stand for antialiasing.
"""

import argparse
import concurrent.futures
import pathlib
import random
import sys
import time

import cv2
import numpy as np
import simplejpeg

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
_WARM_UP = 3  # batches


def crop(image, size, low):
    """A random resized crop, torchvision's draws."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = random.uniform(low, 1.0) * height * width
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = (
                random.randint(0, height - h),
                random.randint(0, width - w),
            )
            break
    else:
        h, w = (
            min(height, round(width * 4 / 3)),
            min(width, round(height * 4 / 3)),
        )
        top, left = (height - h) // 2, (width - w) // 2
    box = image[top : top + h, left : left + w]
    smaller = h > size or w > size
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(box, (size, size), interpolation=how)


def jitter(view, brightness, contrast, saturation, hue):
    """The four operations of a colour jitter, in a random order."""
    for number in random.sample(range(4), 4):
        if number == 0:
            factor = random.uniform(1 - brightness, 1 + brightness)
            view = cv2.convertScaleAbs(view, alpha=factor)
        elif number == 1:
            factor = random.uniform(1 - contrast, 1 + contrast)
            mean = round(cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0])
            table = np.arange(256) * factor + (1 - factor) * mean
            view = cv2.LUT(view, np.clip(table, 0, 255).astype(np.uint8))
        elif number == 2:
            factor = random.uniform(1 - saturation, 1 + saturation)
            grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
            grey = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
            view = cv2.addWeighted(view, factor, grey, 1 - factor, 0)
        else:
            turns = random.uniform(-hue, hue)
            hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(int(turns * 255) % 256)
            view = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return view


def view_of(image, recipe, size):
    """A view uint8 [size, size, 3] by the recipe "v2" or "cifar"."""
    view = crop(image, size, 0.2 if recipe == "v2" else 0.08)
    if random.random() < 0.8:
        view = jitter(view, 0.4, 0.4, 0.4, 0.1)
    if random.random() < 0.2:
        grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
        view = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if recipe == "v2" and random.random() < 0.5:
        sigma = random.uniform(0.1, 2.0)
        side = 2 * int(np.ceil(3 * sigma)) + 1
        view = cv2.GaussianBlur(view, (side, side), sigma)
    return cv2.flip(view, 1) if random.random() < 0.5 else view


class Batches:
    """Both views of files, finished as float32, batch by batch for ever."""

    def __init__(self, files, options):
        self._files, self._options = files, options
        self._pool = concurrent.futures.ThreadPoolExecutor(options.threads)
        self._next = 0
        # By rows: NumPy is slow at spreading three numbers.
        size = options.size
        self._scale = np.tile(1 / (255 * STD), size).astype(np.float32)
        self._offset = np.tile(MEAN / STD, size).astype(np.float32)

    def _fill(self, first, views):
        """One image of a batch: views float32 [2, batch, S, S, 3]."""
        options = self._options
        contents = self._files[first % len(self._files)].read_bytes()
        image = simplejpeg.decode_jpeg(contents)
        for view in views:
            made = view_of(image, options.recipe, options.size)
            rows = view.reshape(options.size, -1)
            rows[:] = made.reshape(options.size, -1)
            rows *= self._scale
            rows -= self._offset

    def _start(self):
        options = self._options
        shape = [2, options.batch, options.size, options.size, 3]
        batch = np.empty(shape, np.float32)
        jobs = [
            self._pool.submit(self._fill, self._next + n, batch[:, n])
            for n in range(options.batch)
        ]
        self._next += options.batch
        return batch, jobs

    def __iter__(self):
        begun = [self._start() for _ in range(2)]
        while True:
            batch, jobs = begun.pop(0)
            for job in jobs:
                job.result()
            begun.append(self._start())
            yield batch


def main():
    parser = argparse.ArgumentParser(description="OpenCV's views.")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--recipe", default="v2", choices=("v2", "cifar"))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    files = sorted(
        path
        for path in pathlib.Path(options.folder).rglob("*")
        if path.suffix.lower() in (".jpeg", ".jpg")
    )
    cv2.setNumThreads(1)  # the views are what runs in parallel
    batches = iter(Batches(files, options))
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(_WARM_UP):
            next(batches)
        start, begun = time.perf_counter(), time.process_time()
        for _ in range(int(line) // options.batch):
            next(batches)
        seconds = time.perf_counter() - start
        print(seconds, time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
