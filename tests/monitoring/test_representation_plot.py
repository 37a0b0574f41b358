import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from moco_tf.monitoring import metrics_csv, representation_plot


def _write(workdir, epochs=5):
    """A run of which every second row is an epoch's end with its kNN."""
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    for epoch in range(1, epochs + 1):
        metrics.append({"step": 10 * epoch - 5, "epoch": epoch, "loss": 5.0})
        metrics.append(
            {
                "step": 10 * epoch,
                "epoch": epoch,
                "knn_backbone": 0.5 + 0.05 * epoch,
                "knn_projection": 0.4 + 0.05 * epoch,
                "alignment": 1.0 / epoch,
                "uniformity": -0.5 * epoch,
                "effective_rank": 10.0 + epoch % 3,
                "feature_norm": 3.0,
            }
        )
    metrics.close()


@pytest.fixture(name="drawn", scope="module")
def _drawn(tmp_path_factory):
    """The figure of five epochs, and the path of its PNG."""
    folder = tmp_path_factory.mktemp("plot")
    saved, save = [], matplotlib.figure.Figure.savefig

    def keep(figure, *args, **kwargs):
        saved.append(figure)
        save(figure, *args, **kwargs)

    _write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.figure.Figure, "savefig", keep)
        assert representation_plot.plot_run(folder, folder / "plot.png") == 5
    return saved[0], folder / "plot.png"


def test_only_epochs_that_were_measured_are_read(tmp_path):
    _write(tmp_path, 3)
    table = representation_plot.read(tmp_path)
    assert table["epoch"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(table["knn_backbone"], [0.55, 0.6, 0.65])
    assert table["uniformity"].tolist() == [-0.5, -1.0, -1.5]


def test_the_picture_holds_every_figure_twice(drawn):
    figure, path = drawn
    assert Image.open(path).size == (1800, 700)
    axes = figure.axes[:10]  # after them comes the colour bar
    over_epochs = [a.get_ylabel() for a in axes if a.get_xlabel() == "epoch"]
    words = list(representation_plot.FIGURES.values())
    assert over_epochs == ["kNN top-1, %", *words]
    against = [a.get_xlabel() for a in axes if "backbone" in a.get_ylabel()]
    assert against == words
    x, y = axes[0].lines[0].get_data()
    assert list(x) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(y, [55, 60, 65, 70, 75])
    points = axes[6].collections[0].get_offsets()  # alignment against kNN
    np.testing.assert_allclose(points[1], [0.5, 60])


def test_rank_correlations_stand_above_the_scatters(drawn):
    figure, _ = drawn
    # Ranks of 11, 12, 10, 11, 12: 2.5, 4.5, 1, 2.5, 4.5, against 1 to 5:
    # products sum to 1 - 1.5 + 0 - 0.5 + 3, squares to 9 and 10.
    assert [a.get_title() for a in figure.axes[6:10]] == [
        "rank correlation -1.00",
        "rank correlation -1.00",
        f"rank correlation {2 / np.sqrt(90):+.2f}",
        "",  # a constant norm has none
    ]


def test_one_epoch_can_be_drawn(tmp_path):
    _write(tmp_path, 1)
    assert representation_plot.plot_run(tmp_path, tmp_path / "p.png") == 1


def test_a_run_without_the_figures_is_refused(tmp_path):
    path = tmp_path / "plot.png"
    with pytest.raises(ValueError, match="Received .* without one"):
        representation_plot.plot_run(tmp_path, path)
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,knn_backbone,knn_projection\n4,1,0.5,0.5\n"
    )
    with pytest.raises(ValueError, match="no epoch with alignment, .*knn.bank"):
        representation_plot.plot_run(tmp_path, path)
    assert not path.exists()
