"""What a record of behaviour keeps of the files that the program writes.

Files as text and as arrays by name, without what differs by nature, and how
two of either differ. Used by behaviour.py.
"""

import csv
import difflib
import hashlib
import html.parser
import pathlib

import numpy as np

_TIMED = ("images_per_second", "input_wait_share", "time", "seconds", "bytes")


def readable(path):
    """What a record keeps of a file, as text; "" for one of bytes."""
    if path.name == "environment.json":
        return ""
    if path.suffix == ".csv":
        with open(path, newline="", errors="backslashreplace") as file:
            rows = list(csv.reader(file))
        kept = [
            place
            for place, name in enumerate(rows[0] if rows else ())
            if not any(word in name for word in _TIMED)
        ]
        return "\n".join(",".join(row[p] for p in kept) for row in rows)
    if path.suffix in (".json", ".md", ".txt"):
        return path.read_text(errors="backslashreplace")
    if "tfevents" in path.name:
        return "\n".join(sorted(events(path)))
    return ""


def events(path):
    """Lines of a TensorBoard file: tag, step, and the value of a scalar."""
    import tensorflow as tf

    for written in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(written.numpy())
        for value in event.summary.value:
            line, figure = f"{value.tag} {event.step}", None
            if value.WhichOneof("value") == "simple_value":
                figure = value.simple_value
            elif value.WhichOneof("value") == "tensor":
                tensor = tf.make_ndarray(value.tensor)
                if tensor.size == 1 and tensor.dtype.kind == "f":
                    figure = float(tensor.reshape(()))
            timed = any(word in value.tag for word in (*_TIMED, "wait"))
            shown = figure is not None and not timed
            yield f"{line} {figure:.9g}" if shown else line


def newest_tensors(workdir):
    """All tensors of a run's newest checkpoint by name; {} if there is none.

    The last column of the step log is the time waited for input: left out.
    """
    import tensorflow as tf

    folders = sorted(pathlib.Path(workdir).glob("checkpoints/step-*"))
    if not folders:
        return {}
    reader = tf.train.load_checkpoint(str(folders[-1] / "state"))
    arrays = {}
    for name in reader.get_variable_to_shape_map():
        if "OBJECT_GRAPH" not in name:
            value = reader.get_tensor(name)
            short = name.replace("/.ATTRIBUTES/VARIABLE_VALUE", "")
            arrays[short] = value[:, :-1] if "step_log" in name else value
    return arrays


def stored_arrays(folder):
    """The arrays of a folder's .npz files and checkpoints, by file and name."""
    arrays = newest_tensors(folder)
    for path in sorted(pathlib.Path(folder).rglob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                arrays[f"{path.relative_to(folder)}/{name}"] = file[name]
    return arrays


def served(path):
    """A SavedModel's signatures, and what they make of a fixed image."""
    import tensorflow as tf

    if not path.is_dir():
        return ["no SavedModel"], {}
    image = fixed_image()[np.newaxis]
    images = {
        "uint8": tf.constant(image),
        "float32": tf.constant(image / np.float32(255)),
        "string": tf.io.encode_png(image[0])[tf.newaxis],
    }
    model = tf.saved_model.load(str(path))
    lines, arrays = [], {}
    for name, call in sorted(model.signatures.items()):
        inputs = call.structured_input_signature[1]
        lines.append(f"{name}: {inputs} -> {call.structured_outputs}")
        outputs = call(**{k: images[v.dtype.name] for k, v in inputs.items()})
        for key, value in outputs.items():
            arrays[f"{name}/{key}"] = value.numpy().astype(
                "S" if value.dtype == tf.string else value.dtype.as_numpy_dtype
            )
    return lines, arrays


def lite_outputs(path):
    """What a TFLite file makes of a fixed image, by the output's name."""
    import tensorflow as tf

    if not path.is_file():
        return {}
    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    described = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(described["index"], [1, 32, 32, 3])
    interpreter.allocate_tensors()
    image = (fixed_image() / 255).astype(described["dtype"])[np.newaxis]
    interpreter.set_tensor(described["index"], image)
    interpreter.invoke()
    return {
        output["name"]: interpreter.get_tensor(output["index"])
        for output in interpreter.get_output_details()
    }


def checksum(path):
    """The SHA-256 of a file, or that it is missing."""
    if not path.is_file():
        return "missing"
    return _sum(path.read_bytes())


def _sum(content):
    return hashlib.sha256(content).hexdigest()


def page_text(path):
    """The text of an HTML page, with its headings, tables and pictures.

    Of a style sheet and of a script the checksum alone; of the charts below
    the heading Speed neither figures nor scripts.
    """
    lines = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag in ("img", "svg", "h1", "h2", "h3", "table"):
                lines.append(f"<{tag}> {dict(attrs).get('alt', '')}")

        def handle_data(self, data):
            text = " ".join(data.split())
            if "<h2> " in lines[-1:]:
                self.timed = text == "Speed"
            figure = text.replace(".", "").isdigit() or self.cdata_elem
            if not text or (figure and getattr(self, "timed", False)):
                return
            if self.cdata_elem:
                text = f"{self.cdata_elem} {_sum(data.encode())}"
            lines.append(text)

    if path.is_file():
        Reader().feed(path.read_text())
    return "\n".join(lines)


def fixed_image():
    """An image uint8 [32, 32, 3] that is always the same."""
    return np.random.default_rng(7).integers(0, 256, (32, 32, 3), np.uint8)


def different_tensors(before, after):
    """Lines on arrays by name that are not the same, bit by bit.

    A name that is gone is shown with a new one that has its bits, if any has.
    """
    lines, new = [], {k: v for k, v in after.items() if k not in before}
    for name, value in sorted(before.items()):
        if name not in after:
            twins = [k for k, v in new.items() if _same_bits(v, value)]
            now = f"now {twins[0]}, with its bits" if twins else "gone"
            lines.append(f"{name}: {now}")
            new = {k: v for k, v in new.items() if k not in twins[:1]}
        elif not _same_bits(value, after[name]):
            lines.append(f"{name}: {_difference(value, after[name])}")
    return lines + [f"{name}: new" for name in sorted(new)]


def _same_bits(left, right):
    same = left.shape == right.shape and left.dtype == right.dtype
    return same and left.tobytes() == right.tobytes()


def _difference(left, right):
    """How two arrays differ, in words."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{left.dtype} {left.shape} became {right.dtype} {right.shape}"
    if left.dtype.kind not in "biuf":
        return "other values"
    left, right = left.astype(np.float64), right.astype(np.float64)
    largest = np.abs(left - right).max()
    return f"differs by {largest:.3g} of {np.abs(left).max():.3g} at most"


def different_files(before, after):
    """Lines on a file that is not the same in two records."""
    for path, other in ((before, "new"), (after, "gone")):
        if not path.is_file():
            return [other]
    if before.suffix == ".npz":
        with np.load(before) as left, np.load(after) as right:
            return different_tensors(dict(left), dict(right))
    texts = [path.read_text().splitlines() for path in (before, after)]
    return list(difflib.unified_diff(*texts, lineterm="", n=0))[2:]


def compare(before, after, parts):
    """Prints every difference of parts of two records; returns their number."""
    count = 0
    for part in parts:
        if not (before / part).is_dir() or not (after / part).is_dir():
            print(f"{part}: not in both records")
            count += 1
            continue
        names = {
            path.name
            for folder in (before / part, after / part)
            for path in folder.iterdir()
            if path.suffix in (".txt", ".npz")
        }
        for name in sorted(names):
            lines = different_files(before / part / name, after / part / name)
            if lines:
                print(f"{part}/{name}", *(f"    {x}" for x in lines), sep="\n")
                count += 1
    print(f"{count} difference(s)" if count else "no difference")
    return count
