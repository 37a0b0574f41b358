"""An exported encoder: each signature, and the local server, measured.

python benchmarks/serving.py --model=RUN/export/encoder \\
    --images=folder:cifar10/test

1. Latency of batch 1 and throughput of batch 32 of each signature, and of
   embed_tensors in each other runtime whose packages are installed.
2. The bytes signature against decoding and encoding one after the other: at
   most 15 % above.
3. launch/serve_local.py with 8 clients at once, 32 images a request, against
   the same calls in one process: at least 80 %.
4. 500 requests of one image each, of 8 clients: the features that Python's own
   decoding, view and encoder give, to 1e-4 of the largest.
5. The server's resident memory over `--requests` single-image requests: flat
   (at most 10 % more in the second half).
Exits 1 beyond a limit.
"""

import argparse
import base64
import concurrent.futures
import http.client
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH, CLIENTS, COMPARED = 32, 8, 500
OVERHEAD, SHARE, GROWTH, LIMIT = 1.15, 0.8, 1.1, 1e-4


def main():
    parser = argparse.ArgumentParser(
        description="An exported encoder, measured.", allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="exported folder")
    parser.add_argument("--images", required=True, help="source of files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()

    from moco_tf.cli import quiet

    quiet.prepare()
    with quiet.imports():
        import tensorflow as tf

        from moco_tf.data import sources
        from moco_tf.serving import server
    path, _ = server.newest_version(options.model)
    source = sources.open_source(options.images)
    data = _files(source, range(BATCH))
    model = tf.saved_model.load(str(path))
    failed = not signatures(model, data, options.rounds)
    runtimes(path, model, options.rounds)
    failed |= not serve(options, path, model, source)
    if failed:
        sys.exit("beyond a limit")


def _files(source, indices):
    """The bytes of a source's files at some indices."""
    import tensorflow as tf

    records = source.records(tf.constant(list(indices), tf.int64))
    return [tf.io.read_file(record).numpy() for record in records]


def signatures(model, data, rounds):
    """Prints 1 and 2; returns whether the bytes signature is in its limit."""
    import tensorflow as tf

    inputs = {}
    for name, function in model.signatures.items():
        ((key, spec),) = function.structured_input_signature[1].items()
        if spec.dtype == tf.string:
            value = tf.constant(data)
        else:
            side = [n or 256 for n in spec.shape[1:3]]
            value = tf.zeros([len(data), *side, 3], spec.dtype)
        inputs[name] = (key, value)
    seconds_of = {name: {1: [], BATCH: []} for name in inputs}
    parts = []
    for number in range(rounds + 1):  # the first round traces and is left out
        for name, (key, value) in inputs.items():
            for rows in (1, BATCH):
                call = model.signatures[name]
                seconds = _time(call, **{key: value[:rows]})
                if number:
                    seconds_of[name][rows].append(seconds)
        if number:
            parts.append(_time(_decode_all, data))
    for name, times in seconds_of.items():
        _print_times(name, times)
    together = statistics.median(seconds_of["serving_default"][BATCH])
    separate = statistics.median(parts) + statistics.median(
        seconds_of["embed_tensors"][BATCH]
    )
    ratio = together / separate
    print(f"bytes signature: {ratio:.2f} of decode + encode (limit {OVERHEAD})")
    return ratio <= OVERHEAD


def _decode_all(data):
    import tensorflow as tf

    for image in data:
        tf.io.decode_image(image, channels=3, expand_animations=False)


def runtimes(path, model, rounds):
    """Prints the rest of 1: the encoder alone in other runtimes."""
    import importlib.util

    import numpy as np

    from moco_tf.serving import convert

    signature = model.signatures[convert.SIGNATURE]
    ((_, spec),) = signature.structured_input_signature[1].items()
    random = np.random.default_rng(0)
    images = random.standard_normal([BATCH, *spec.shape[1:]], np.float32)
    for name, form in convert.FORMATS.items():
        if not all(importlib.util.find_spec(n) for n in form.packages):
            print(f"{name:<16} not installed: pip install -e '.[convert]'")
            continue
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder) / f"encoder{form.suffix}"
            form.write(path, model, place)
            encode = form.open(place)
            times = {}
            for rows in (1, BATCH):  # a runtime may plan for one batch size
                encode(images[:rows])
                times[rows] = [
                    _time(encode, images[:rows]) for _ in range(rounds)
                ]
        _print_times(name, times)


def _print_times(name, times):
    one, many = (1000 * statistics.median(times[n]) for n in (1, BATCH))
    print(
        f"{name:<16} batch 1 {one:7.1f} ms   batch {BATCH} {many:8.1f} ms"
        f"   {1000 * BATCH / many:8.1f} images/s",
        flush=True,
    )


def serve(options, path, model, source):
    """Prints 3 to 5; returns whether all are in their limits."""
    import tensorflow as tf

    data = _files(source, range(BATCH))
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "launch" / "serve_local.py"),
            f"--model={options.model}",
            "--port=0",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit("The server did not start; its words are above.")
        port = int(re.search(r":(\d+)/", line)[1])
        body = _body(data)
        call = model.signatures["serving_default"]
        value = tf.constant(data)
        _post(port, [body])
        ratios = []
        for _ in range(options.rounds):
            inside = _time(
                lambda: [call(image_bytes=value) for _ in range(CLIENTS)]
            )
            outside = _time(_post_by_all, port, [body])
            ratios.append(inside / outside)
        share = statistics.median(ratios)
        print(
            f"server, {CLIENTS} clients: {share:.2f} of the in-process "
            f"throughput (at least {SHARE})",
            flush=True,
        )
        difference = _difference(port, path, source)
        growth = _growth(port, process.pid, data, options.requests)
    finally:
        process.terminate()
        process.wait(30)
    return share >= SHARE and growth <= GROWTH and difference <= LIMIT


def _difference(port, path, source):
    """Largest difference of served features and Python's, of the largest."""
    import numpy as np
    import tensorflow as tf

    from moco_tf.evaluation import frozen
    from moco_tf.serving import comparison

    indices = np.linspace(0, len(source) - 1, COMPARED).astype(np.int64)
    records = source.records(tf.constant(indices))
    bodies = [_body([contents]) for contents in _files(source, indices)]
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        answers = pool.map(lambda body: _post(port, [body]), bodies)
        rows = [answer["predictions"][0]["features"] for answer in answers]
    encoder = frozen.open_frozen("", saved_model=str(path))
    pixels = [
        encoder.recipe.evaluate(source.image(record), encoder.image_size)
        for record in records
    ]
    expected = np.concatenate(
        [
            encoder.encode(tf.stack(pixels[start : start + BATCH]))["backbone"]
            for start in range(0, COMPARED, BATCH)
        ]
    )
    difference = comparison.compare("socket, Python", rows, expected)
    print(f"{COMPARED} requests: {difference}", flush=True)
    return difference.relative


def _growth(port, pid, data, requests):
    """Resident memory after all single-image requests, over that after half."""
    bodies = [_body([x]) for x in data]
    memory = []
    for _ in range(2):
        each = [bodies[n % len(bodies)] for n in range(requests // 16)]
        _post_by_all(port, each)
        memory.append(_resident(pid))
    print(
        f"memory after {requests // 2} requests {memory[0]:.2f} GB, after "
        f"{requests} {memory[1]:.2f} GB"
    )
    return memory[1] / memory[0]


def _body(data):
    rows = [{"b64": base64.b64encode(x).decode()} for x in data]
    return json.dumps({"instances": rows})


def _post_by_all(port, bodies):
    """All clients at once post the same bodies."""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: _post(port, bodies), range(CLIENTS)))


def _post(port, bodies):
    """Posts bodies one after another on one connection; the last answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for body in bodies:
        connection.request("POST", "/v1/models/encoder:predict", body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"the server answered {answer.status}: {text[:200]}")
    connection.close()
    return json.loads(text)


def _resident(pid):
    """Resident gigabytes of a process (Linux)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e6


def _time(run, *arguments, **named):
    start = time.perf_counter()
    run(*arguments, **named)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
