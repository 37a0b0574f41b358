"""kNN of the encoder while it trains."""

from moco_tf.data import sources, views
from moco_tf.evaluation import knn


class KnnMonitor:
    """kNN of an encoder between two labelled sources, for one run."""

    def __init__(self, config):
        """Opens both sources and checks their labels.

        Raises:
          ValueError: if they cannot be compared.
        """
        self.config = config
        self.recipe = views.RECIPES[config.data.views]
        self.bank = sources.open_source(config.knn.bank)
        self.query = sources.open_source(config.knn.query)
        knn.check(self.bank, self.query, config.knn.k)

    def __call__(self, encoder):
        """Top-1 fractions of the encoder's layers, by layer name."""
        knn_config = self.config.knn
        return knn.compare(
            encoder,
            self.bank,
            self.query,
            self.recipe,
            self.config.data.image_size,
            knn_config.batch_size,
            knn_config.k,
            knn_config.temperature,
        )

    def baseline(self, encoder):
        """Words for the kNN of raw pixels and of the untrained encoder."""
        knn_config = self.config.knn
        size = self.config.data.image_size
        pixels = knn.compare_pixels(
            self.bank,
            self.query,
            self.recipe,
            size,
            knn_config.k,
            knn_config.temperature,
        )
        untrained = self(encoder)[knn_config.features]
        return (
            f"raw pixels {100 * pixels:.2f} %  untrained encoder "
            f"({knn_config.features}) {100 * untrained:.2f} %"
        )
