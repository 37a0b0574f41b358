"""All checks of `doctor`, in their order."""

import os
from typing import NamedTuple

import tensorflow as tf

from moco_tf import cores, paths, plan
from moco_tf.doctor import (
    devices,
    images,
    recipe,
    reference,
    resources,
    scan,
    table,
)
from moco_tf.training import gpus


class Request(NamedTuple):
    """What `doctor` examines, and the files that it writes.

    Attributes:
      config: ConfigDict. workdir: folder of the run that is planned, or "".
      path: CSV file for the faults of images; "" = doctor.csv in the workdir.
      json: file for the table; "" = none.
      trial_steps: int; 0 = no trial. prove: whether to check the devices.
      rate_per_image: learning rate / batch size in the configuration's file;
        None = not known.
      gpu_fault: str, why GPUs that are there are not used, and the remedy.
    """

    config: object
    workdir: str = ""
    path: str = ""
    json: str = ""
    trial_steps: int = 20
    prove: bool = False
    rate_per_image: float | None = None
    gpu_fault: str = ""


def examine(request, strategy):
    """Examines data, devices and configuration, and prints the results.

    Args:
      request: Request. strategy: tf.distribute.Strategy of the run.

    Returns:
      list of table.Row.

    Raises:
      OSError: if a file that was asked for cannot be written.

    Side effects: prints; writes the CSV and JSON files.
    """
    rows: list[table.Row] = []
    faults: list[images.Fault] = []
    fits = _check_config(rows, request.config, strategy)
    rows.append(_devices(strategy, request.gpu_fault))
    source = _open(rows, request.config)
    if source is not None:
        faults = _examine_images(rows, source, request)
        rows += recipe.training_rows(
            request.config,
            len(source),
            request.rate_per_image,
            strategy.num_replicas_in_sync,
        )
    rows.append(recipe.knn_row(request.config))
    if request.prove and fits:
        _announce("the devices: steps of the reference, a gather, a resume")
        rows += [
            reference.check_reference(),
            devices.check_gather(strategy, request.config.data.image_size),
            devices.check_resume(request.config, strategy),
        ]
    if fits:
        count = 0 if source is None else len(source)
        rows += _resources(request, strategy, count)
        ready = source is not None and not table.failures(rows)
        if request.trial_steps and ready:
            _announce(f"{request.trial_steps} steps of the run itself")
            rows.append(_trial(request, source, strategy))
    counts = images.count_faults(faults) if source is not None else {}
    _report(rows, request, counts)
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


def _devices(strategy, fault):
    """The row that lists replicas, devices and cores; `fault` of Request."""
    names = [d.name for d in tf.config.list_logical_devices()]
    shown = ", ".join(name.rpartition("/device:")[2] for name in names)
    words = (
        f"{strategy.num_replicas_in_sync} replica(s); TensorFlow sees {shown}"
    )
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        words += f"; {details.get('device_name', gpu.name)}"
    words += f"; {cores.count()} cores"
    if fault:
        return table.Row("devices", words, table.FAIL, fault)
    return table.Row("devices", words)


def _open(rows, config):
    """The source, or None and a row that says why not."""
    try:
        source = plan.open_source(config, config.data.source)
    except ValueError as error:
        rows.append(table.Row("source", str(error), table.FAIL))
        return None
    words = f"{len(source)} images of {paths.shown(config.data.source)}"
    rows.append(table.Row("source", words))
    return source


def _examine_images(rows, source, request):
    """Adds the rows about images; returns their faults."""
    config = request.config
    _announce(f"{len(source)} images")
    figures = scan.scan_source(source, config.data.threads or cores.count())
    faults = images.find_faults(source, figures, config.data.image_size)
    rows += images.remark_rows(source)
    rows += images.format_rows(figures)
    rows += images.fault_rows(source, faults, config.data.max_corrupt_fraction)
    rows += _count_classes(source, config.data.source)
    rows += recipe.size_rows(config, figures)
    path = request.path
    if not path and request.workdir:
        path = os.path.join(request.workdir, "doctor.csv")
    if path:
        images.write_csv(path, source, faults)
        table.print_text(
            f"{len(faults)} findings about images in {paths.shown(path)}"
        )
    elif faults:
        table.print_text(
            "Pass --path=FILE.csv to have all of these images named."
        )
    return faults


def _count_classes(source, spec):
    try:
        return images.class_rows(source, spec)
    except ValueError as error:  # labels that lie in damaged records
        words = f"labels cannot be read: {error}"
        remedy = "Prepare the data set anew."
        return [table.Row("classes", words, table.FAIL, remedy)]


def _resources(request, strategy, count):
    """Rows about memory and disk, for a source of `count` images."""
    replicas = strategy.num_replicas_in_sync
    parts = resources.predict_memory(request.config, replicas, count)
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    free = gpus.free_bytes() if on_gpu else resources.free_on_host()
    kind = "GPU" if on_gpu else "CPU"
    size = resources.checkpoint_bytes(parts, request.config, count)
    return [
        resources.memory_row(
            parts,
            request.config,
            replicas,
            kind,
            free,
            rate_per_image=request.rate_per_image,
        ),
        resources.disk_row(
            request.workdir, size, request.config.checkpoint.keep
        ),
    ]


def _trial(request, source, strategy):
    """The row about some steps of the run itself."""
    try:
        trial = devices.run_trial(
            request.config, source, strategy, request.trial_steps
        )
    except tf.errors.ResourceExhaustedError as error:
        words = f"out of memory: {error.message.splitlines()[0][:200]}"
        remedy = "Lower train.batch_size, and the rate with it."
        return table.Row("time", words, table.FAIL, remedy)
    except tf.errors.OpError as error:
        words = f"a step failed: {error.message.splitlines()[0][:200]}"
        return table.Row("time", words, table.FAIL, "Run with --verbose.")
    return devices.trial_row(request.config, len(source), trial)


def _announce(subject):
    table.print_text(f"examining {subject}")


def _report(rows, request, counts):
    """Prints the table and the suggested flags; writes the JSON file."""
    table.print_text("\n" + table.format_rows(rows))
    flags = table.flags(table.overrides(rows))
    if flags:
        table.print_text("\nSuggested:\n  " + " \\\n  ".join(flags))
    if request.json:
        table.write_json(request.json, rows, counts)
