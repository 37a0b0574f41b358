"""Serves an exported encoder over HTTP, in TensorFlow Serving's REST format.

    .venv/bin/python launch/serve_local.py --model=RUN/export/encoder

It stands in for tensorflow_model_server on one machine: the same paths and
bodies, one version of one model, requests of several clients in one batch.
Needs the extra `serving`: pip install -e ".[serving]". Stop it by Ctrl-C.
"""

import argparse
import pathlib
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _whole(lowest, highest):
    """A reader of a flag's whole number."""

    def read(text):
        if not (text.isdecimal() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {highest}. Received "
                f"{text!r}."
            )
        return int(text)

    return read


def _options():
    """The flags."""
    parser = argparse.ArgumentParser(
        description="Serves an exported encoder over HTTP.", allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="exported folder")
    parser.add_argument("--name", default="encoder", help="[encoder]")
    parser.add_argument("--host", default="127.0.0.1", help="[127.0.0.1]")
    for name, default, lowest, highest in (
        ("port", 8501, 0, 65535),  # 0: any that is free
        ("threads", 16, 1, 1024),
        ("max_body_mb", 32, 1, 4096),
        ("max_rows", 64, 1, 1024),  # as many may wait
        ("max_pixels", 40_000_000, 1, 10**9),
    ):
        parser.add_argument(
            f"--{name}",
            type=_whole(lowest, highest),
            default=default,
            help=f"{lowest} to {highest} [{default}]",
        )
    parser.add_argument("--batch_wait_ms", type=float, default=2.0, help="[2]")
    return parser.parse_args()


def main():
    options = _options()
    sys.path.insert(0, str(ROOT))  # a checkout need not be installed
    from moco_tf.cli import quiet

    quiet.prepare()
    try:
        with quiet.imports():
            from moco_tf.serving import local_http
            from moco_tf.serving import server as serving
    except ImportError as error:
        if error.name != "waitress":
            raise
        sys.exit(
            "serve_local.py needs waitress. Install the extra: "
            'pip install -e ".[serving]"'
        )

    limits = serving.Limits(
        body_bytes=options.max_body_mb * 2**20,
        rows=options.max_rows,
        pixels=options.max_pixels,
    )
    try:
        app = serving.RestApp(
            options.model, options.name, limits, options.batch_wait_ms / 1000
        )
    except (OSError, ValueError) as error:
        sys.exit(f"serve_local.py: error: {error}")
    try:
        server, port = local_http.listen(
            app,
            options.host,
            options.port,
            options.threads,
            max_bytes=4 * limits.body_bytes,
        )
    except (OSError, ValueError) as error:
        sys.exit(
            f"serve_local.py: error: {options.host}:{options.port} cannot be "
            f"opened ({error}). Pass another --port, or 0 for any that is free."
        )
    host = f"[{options.host}]" if ":" in options.host else options.host
    name = urllib.parse.quote(options.name)
    print(f"serving http://{host}:{port}/v1/models/{name}", flush=True)
    try:
        server.run()
    finally:
        app.close()


if __name__ == "__main__":
    main()
