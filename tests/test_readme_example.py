"""The README's example in Python runs as it stands."""

import pathlib
import re

import numpy as np
import tensorflow as tf

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def test_the_readme_trains_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    blocks = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S
    )
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    tf.keras.utils.set_random_seed(0)
    names = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    model, strategy = names["model"], names["strategy"]
    done = int(model.step.numpy())
    assert done > 0
    losses = model.step_log.read(0, done)["loss"]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[-1]
    # What the comment behind the last line says.
    shape = re.search(r"# \[(\d+), (\d+)\]\s*$", blocks[0])
    assert names["features"].shape == [int(size) for size in shape.groups()]
    assert strategy is tf.distribute.get_strategy()
    assert "loss" in capsys.readouterr().out
