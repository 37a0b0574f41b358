"""One line that says what holds a run back, and what to try."""

_NEAR = 1.1  # within it, neither waits for the other


def verdict(config, input_rate, step_rate, shared):
    """Names the bottleneck.

    Args:
      config: ConfigDict of a pre-training.
      input_rate, step_rate: images/s of each alone; input_rate None: not
        measured.
      shared: whether both run on the same cores.

    Returns:
      str.
    """
    if input_rate is None:
        return f"step alone: {step_rate:.0f} images/s; give a data.source"
    ratio = step_rate / input_rate
    if ratio > _NEAR:
        return (
            f"input-bound: {ratio:.1f}x more input would be used; try "
            + _join(_for_input(config, shared))
        )
    if ratio > 1 / _NEAR:
        return "balanced: input and step take the same time"
    return (
        f"step-bound: the input is {1 / ratio:.1f}x faster than the step; try "
        + _join(_for_step(config))
    )


def _for_input(config, shared):
    source = config.data.source
    if not source.startswith(("prepared:", "shapes")):
        yield "a cache (moco-tf prepare)"
    if config.data.augment_on == "host" and not shared:
        yield "--config.data.augment_on=device"
    if config.data.threads:
        yield "--config.data.threads=0"
    yield "more cores"


def _for_step(config):
    if config.train.precision == "float32":
        yield "--config.train.precision=mixed_bfloat16"
    if config.model.recompute:
        yield "--config.model.recompute=false"
    if config.train.micro_batches > 1:
        yield "fewer train.micro_batches"
    yield "more devices"


def _join(remedies):
    return " or ".join(remedies)
