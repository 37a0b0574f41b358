"""A small TFDS data set, prepared without a network."""

import numpy as np
import tensorflow_datasets as tfds

COUNT = 25


def picture(number):
    """An image whose pixels are its number, of a size that varies."""
    image = np.full((4 + number % 3, 5, 3), number, np.uint8)
    image[0, 0] = [255, 0, number]
    return image


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Numbered pictures with secret labels in the test split."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "scene": {
                        "picture": tfds.features.Image(encoding_format="png")
                    },
                    "kind": tfds.features.ClassLabel(
                        names=["ape", "bee", "cow"]
                    ),
                    "weight": np.float32,
                }
            )
        )

    def _split_generators(self, manager):
        return {"train": self._make(COUNT, 0), "test": self._make(4, None)}

    def _make(self, count, first):
        for number in range(count):
            yield (
                number,
                {
                    "scene": {"picture": picture(number)},
                    "kind": -1 if first is None else number % 3,
                    "weight": 0.5,
                },
            )

    def _generate_examples(self):
        raise NotImplementedError("each split has its generator")


def prepare(data_dir, file_format):
    builder = Tiny(data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            num_shards=4, try_download_gcs=False, register_checksums=False
        )
    )
    return builder
