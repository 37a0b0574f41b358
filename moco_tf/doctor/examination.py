"""All checks of `doctor`, in their order."""

import os
from typing import NamedTuple

import tensorflow as tf

from moco_tf import plan
from moco_tf.doctor import (
    devices,
    images,
    recipe,
    reference,
    resources,
    scan,
    table,
)


class Order(NamedTuple):
    """What is to be examined.

    Attributes:
      config: ConfigDict. workdir: folder of the run that is planned, or "".
      path: CSV file for the faults of images; "" = doctor.csv in the workdir.
      json: file for the table; "" = none.
      trial_steps: int; 0 = no trial. prove: whether to check the devices.
      tuned: learning rate for one image of the batch in the configuration's
        file, or None.
    """

    config: object
    workdir: str = ""
    path: str = ""
    json: str = ""
    trial_steps: int = 20
    prove: bool = False
    tuned: float | None = None


def examine(order, strategy):
    """Examines data, devices and configuration, and prints what it found.

    Args:
      order: Order. strategy: tf.distribute.Strategy of the run.

    Returns:
      list of table.Row.

    Raises:
      OSError: if a file that was asked for cannot be written.

    Side effects: prints; writes the CSV and JSON files.
    """
    rows: list[table.Row] = []
    faults: list[images.Fault] = []
    fits = _check_config(rows, order.config, strategy)
    rows.append(_devices(strategy))
    source = _open(rows, order.config)
    if source is not None:
        faults = _examine_images(rows, source, order)
        rows += recipe.fit(order.config, len(source), order.tuned)
    rows.append(recipe.judges(order.config))
    if order.prove and fits:
        _say_begun("the devices: steps of the reference, a gather, a resume")
        rows += [
            reference.row(),
            devices.gather(strategy),
            devices.resume(order.config, strategy),
        ]
    if fits:
        count = 0 if source is None else len(source)
        rows += _room(order, strategy, count)
        ready = source is not None and not table.failures(rows)
        if order.trial_steps and ready:
            _say_begun(f"{order.trial_steps} steps of the run itself")
            rows.append(_try(order, source, strategy))
    _tell(rows, order, images.count(faults) if source is not None else {})
    return rows


def _check_config(rows, config, strategy):
    """Adds a row; returns whether the configuration can work at all."""
    try:
        plan.check(config, strategy.num_replicas_in_sync)
    except ValueError as error:
        rows.append(table.Row("configuration", str(error), table.FAIL))
        return False
    rows.append(table.Row("configuration", "every rule that needs no data"))
    return True


def _devices(strategy):
    names = [d.name for d in tf.config.list_logical_devices()]
    shown = ", ".join(name.rpartition("/device:")[2] for name in names)
    words = (
        f"{strategy.num_replicas_in_sync} replica(s); TensorFlow sees {shown}"
    )
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        words += f"; {details.get('device_name', gpu.name)}"
    return table.Row("devices", f"{words}; {os.cpu_count()} cores")


def _open(rows, config):
    """The source, or None and a row that says why not."""
    try:
        source = plan.open_source(config, config.data.source)
    except ValueError as error:
        rows.append(table.Row("source", str(error), table.FAIL))
        return None
    words = f"{len(source)} images of {config.data.source}"
    rows.append(table.Row("source", words))
    return source


def _examine_images(rows, source, order):
    """Adds the rows about images; returns their faults."""
    config = order.config
    _say_begun(f"{len(source)} images")
    found = scan.scan_source(source, config.data.threads or os.cpu_count())
    faults = images.find(source, found, config.data.image_size)
    rows += images.formats(found)
    rows += images.rows(source, faults, config.data.max_corrupt_fraction)
    rows += _count_classes(source, config.data.source)
    rows += recipe.sizes(config, found)
    path = order.path
    if not path and order.workdir:
        path = os.path.join(order.workdir, "doctor.csv")
    if path:
        images.write_csv(path, source, faults)
        table.say(f"{len(faults)} findings about images in {path}")
    elif faults:
        table.say("Pass --path=FILE.csv to have all of these images named.")
    return faults


def _count_classes(source, spec):
    try:
        return images.class_rows(source, spec)
    except ValueError as error:  # labels that lie in damaged records
        words = f"labels cannot be read: {error}"
        remedy = "Prepare the data set anew."
        return [table.Row("classes", words, table.FAIL, remedy)]


def _room(order, strategy, images):
    """Rows about memory and disk."""
    replicas = strategy.num_replicas_in_sync
    parts = resources.predict(order.config, replicas, images)
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    free = resources.free_on_gpus() if on_gpu else resources.free_on_host()
    kind = "GPU" if on_gpu else "CPU"
    each = resources.checkpoint_bytes(parts, order.config, images)
    return [
        resources.memory_row(
            parts, order.config, replicas, kind, free, order.tuned
        ),
        resources.disk_row(order.workdir, each, order.config.checkpoint.keep),
    ]


def _try(order, source, strategy):
    try:
        found = devices.run(order.config, source, strategy, order.trial_steps)
    except tf.errors.ResourceExhaustedError as error:
        words = f"out of memory: {error.message.splitlines()[0][:200]}"
        remedy = "Lower train.batch_size, and the rate with it."
        return table.Row("time", words, table.FAIL, remedy)
    except tf.errors.OpError as error:
        words = f"a step failed: {error.message.splitlines()[0][:200]}"
        return table.Row("time", words, table.FAIL, "Run with --verbose.")
    return devices.row(order.config, len(source), found)


def _say_begun(what):
    table.say(f"examining {what}")


def _tell(rows, order, counts):
    """Prints the table and what it suggests; writes the JSON file."""
    table.say("\n" + table.format_rows(rows))
    words = table.flags(table.overrides(rows))
    if words:
        table.say("\nSuggested:\n  " + " \\\n  ".join(words))
    if order.json:
        table.write_json(order.json, rows, counts)
