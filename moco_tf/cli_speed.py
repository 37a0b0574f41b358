"""Commands that make a run faster, or say what slows it: flags to calls."""

from moco_tf import command_line, quiet


def _prepare(options, config):
    del config
    if not options.source and not options.verify:
        raise command_line.UsageError(
            "--source must be given; --verify alone reads a finished cache "
            "again."
        )
    short_side = command_line.number(int, "short_side", options.short_side)
    with quiet.imports(options.verbose):
        from moco_tf import prepare
        from moco_tf.monitoring import counter
        from moco_tf.training import distribution
    distribution.make_strategy("cpu")  # decoding leaves GPUs to others
    if options.source:
        about = prepare.prepare(options.source, options.path, short_side)
        size = about["bytes"]["images.bin"]
        print(
            f"cache       {about['images']} images of {about['source']}, short "
            f"side at most {about['short_side']}\n"
            f"unreadable  {about['unreadable']}, named in unreadable.csv\n"
            f"size        {counter.format_bytes(size)}, "
            f"{size / about['images'] / 1e3:.0f} kB an image\n"
            f"use it as   prepared:{options.path}"
        )
    if options.verify:
        count = prepare.verify(options.path)
        print(f"verified    {count} images: all have their checksums")


def _benchmark(options, config):
    steps = command_line.number(int, "steps", options.steps)
    with quiet.imports(options.verbose):
        from moco_tf import benchmark
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(
        options.devices, deterministic=options.deterministic
    )
    quiet.start_xla(options.verbose)
    benchmark.benchmark(config, strategy, steps, path=options.json)


COMMANDS = {
    "benchmark": command_line.Command(
        run=_benchmark,
        purpose="measure input, step and both; name the bottleneck",
        flags=("config", "devices", "deterministic", "steps", "json"),
        required=("config",),
        defaults={"steps": ("10", "measured in each of three rounds")},
    ),
    "prepare": command_line.Command(
        run=_prepare,
        purpose="decode a source once, into a cache that is faster to read",
        flags=("source", "path", "short_side", "verify"),
        required=("path",),
        defaults={
            "source": ("", "any source of images; with --verify not needed"),
            "path": (None, "folder of the cache; the same command resumes"),
        },
    ),
}
