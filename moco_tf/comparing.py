"""Encoders side by side on one set of images (the `compare` command).

Everything that can be refused is refused before the first image is encoded for
good: all encoders are opened, and give features of a few images. Then each is
measured, in the order in which they are named, and compared with the first.
"""

import csv
import datetime
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import (
    benchmark,
    counting,
    encoders,
    filesystem,
    paths,
    state_files,
)
from moco_tf.data import sources, specs
from moco_tf.evaluation import (
    accuracy,
    embeddings,
    paired,
    side_by_side,
)
from moco_tf.reporting import encoder_page
from moco_tf.training import distribution

MOST = 20  # encoders; all of them are in memory
# Columns of the table that is printed; the page has all.
_PRINTED = (
    *("knn", "probe", "shared", "effective_rank", "alignment", "uniformity"),
    *("images_per_second", "parameters", "dimension"),
)


def compare(
    names: Sequence[str],
    images: str = "",
    query: str = "",
    output: str = "",
    k: int = 20,
    temperature: float = 0.1,
    probe: bool = True,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures encoders on the same images, and prints how they differ.

    Args:
      names: of 2 to 20 encoders, as encoders.parse reads them. The others are
        compared with the first.
      images: spec of the set; "": bank and query set of the first run.
      query: spec of the images that are classified; "": those of `images`.
      output: folder of the results, and of the features.
      k: neighbours. temperature: of their vote.
      probe: whether a linear probe is trained, where there are labels.
      rounds: in which the encoders take turns to be timed; 0: none.

    Returns:
      dict, as in compare.json.

    Raises:
      ValueError: before any work, for what cannot be compared.

    Side effects: writes compare.html, compare.json, compare.csv and features/
      in `output`; sets the precision of products to float32.
    """
    if not output:
        raise ValueError(
            "A comparison needs a folder for its results and its features. "
            "Received none. Pass --output=DIR."
        )
    folder = paths.expand(output)
    named, opened = _open(names)
    images, query = _specs(images, query, named, opened)
    sets = side_by_side.open_sets(images, query, opened[0].channels, k)
    entries = [
        _entry(name, label, encoder)
        for name, label, encoder in zip(
            named, labels(named), opened, strict=True
        )
    ]
    _check(opened, entries)
    why_no_probe = "It was not asked for."
    if probe:
        why_no_probe = side_by_side.why_no_probe(sets)
    settings = side_by_side.Settings(k, temperature, probe=not why_no_probe)
    _print_sets(sets, images, query, why_no_probe)
    outcomes, indices = [], []
    for encoder, entry in zip(opened, entries, strict=True):
        words = encoder_page.preprocessing(entry)
        print(f"encoder     {entry['name']}: {words}", flush=True)
        outcome, own_index = side_by_side.measure(
            encoder, sets, settings, folder / "features"
        )
        entry |= outcome.figures | _accuracies(outcome)
        outcomes.append(outcome)
        indices.append(own_index)
        _check_same_images(indices, folder)
    _add_differences(entries, outcomes)
    for entry, rate in zip(entries, _speeds(opened, rounds), strict=True):
        entry["images_per_second"] = rate
    now = datetime.datetime.now(datetime.UTC)
    result: dict[str, Any] = {
        "moco_tf": moco_tf.__version__,
        "written": now.isoformat("T", "seconds"),
        "devices": [x.name for x in tf.config.list_logical_devices()],
        "images": _about(sets, images, query, indices[0]),
        "settings": _about_settings(settings, why_no_probe),
        "encoders": entries,
        **_agreement(outcomes, len(indices[0][0]) - sets.one),
    }
    _write(result, folder)
    _print(result, folder)
    return result


def _check(opened, entries):
    """Refuses encoders whose features are not finite (ValueError)."""
    with counting.counted(len(opened), 0, "checking", "encoders") as bar:
        for encoder, entry in zip(opened, entries, strict=True):
            side_by_side.check(encoder, entry["name"])
            bar.add(1)


def _open(names):
    """Opens the encoders of names, those first that have a configuration.

    Returns:
      list of encoders.Named, list of frozen.FrozenEncoder.
    """
    if not 2 <= len(names) <= MOST:
        raise ValueError(
            f"A comparison is of 2 to {MOST} encoders. Received {len(names)}. "
            f"Name from two to {MOST}; {encoders.UNTRAINED} and "
            f"{encoders.PIXELS} are always there to compare with."
        )
    named = [encoders.parse(name) for name in names]
    opened: dict[int, Any] = {}
    # A baseline follows the first of the others, wherever it is named.
    baselines = (encoders.UNTRAINED, encoders.PIXELS)
    order = sorted(range(len(named)), key=lambda i: named[i].kind in baselines)
    with counting.counted(len(order), 0, "opening", "encoders") as bar:
        for number in order:
            known = [opened[i] for i in sorted(opened)]
            opened[number] = encoders.open_encoder(
                named[number],
                next((x.config for x in known if x.config is not None), None),
                known[0].channels if known else 3,
            )
            bar.add(1)
    channels = {x.channels for x in opened.values()}
    if len(channels) > 1:
        shown = ", ".join(
            f"{named[i].text} {opened[i].channels}" for i in sorted(opened)
        )
        raise ValueError(
            "Encoders are compared on the same images, so they take images of "
            f"as many channels. Received {shown}. Name those of one number."
        )
    # Each configuration has set it for the process.
    distribution.set_precision(tf32=False)
    return named, [opened[number] for number in range(len(named))]


def _specs(images, query, named, opened):
    """The specs of the images: the given ones, or those of the first run."""
    if images:
        return images, query
    # Weights have a configuration too, which is a guess and has seen nothing.
    runs = [
        encoder.config.knn
        for name, encoder in zip(named, opened, strict=True)
        if name.kind == "run"
    ]
    bank, own_query = (runs[0].bank, runs[0].query) if runs else ("", "")
    if not bank:
        raise ValueError(
            "A comparison needs images, and the encoders that are named know "
            "of none. Received none. Give a set, with labels or without, by "
            "--images=SOURCE, such as --images=folder:DIR."
        )
    query = query or own_query
    for name, spec in (("bank", bank), ("query", query)):
        specs.check_there(spec, f"knn.{name}", "pass --images=SOURCE.")
    return bank, query


def labels(named):
    """Short names of encoders, all different.

    Args:
      named: list of encoders.Named.

    Returns:
      list of str: as many of the last parts of each path as it takes.
    """
    for count in range(1, 100):
        short = []
        for each in named:
            folder, slash, last = each.text.rstrip("/").rpartition("/")
            last = last or each.text
            kept = [*folder.split("/")[1 - count :], last] if slash else [last]
            short.append("/".join(kept if count > 1 else [last]))
        if len(set(short)) == len({x.text for x in named}):
            break
    seen: dict[str, int] = {}
    for number, text in enumerate(short):
        seen[text] = seen.get(text, 0) + 1
        if seen[text] > 1:
            short[number] = f"{text} ({seen[text]})"
    return [paths.shown(text) for text in short]


def _check_same_images(indices, output):
    """Refuses encoders that have seen other images than the first.

    Args:
      indices: of each so far, the readable images of bank and queries.
      output: pathlib.Path of the results.
    """
    for one, other in zip(indices[0], indices[-1], strict=True):
        if not np.array_equal(one, other):
            raise ValueError(
                "All encoders must see the same images. Received other "
                "readable images for one than for the first: files have "
                f"changed meanwhile. Remove {output / 'features'}, and give "
                "the same command again."
            )


def _print_sets(sets, images, query, why_no_probe):
    """Says what the encoders are compared on."""
    kinds = f"{sets.classes} classes" if sets.truth is not None else "no labels"
    if sets.one:
        words = f"{len(sets.bank)} images, {kinds}; each against the others"
        print(f"images      {paths.shown(images)}: {words}")
    else:
        print(f"bank        {paths.shown(images)}: {len(sets.bank)} images")
        print(
            f"query       {paths.shown(query)}: {len(sets.query)} images, "
            f"{kinds}"
        )
    print(sources.remark_lines(sets.bank, " " * 12), end="")
    if sets.why:
        print(f"accuracy    none. {sets.why}")
    elif why_no_probe:
        print(f"probe       none. {why_no_probe}")


def _speeds(opened, rounds):
    """Images per second of each encoder, in turn, on a batch in memory.

    Returns:
      list of dicts: median, low and high of the rounds; None for pixels.
    """
    runs: list[Any] = []
    for encoder in opened:
        images = side_by_side.noise(encoder)

        def run(encoder=encoder, images=images):
            return tf.reduce_sum(encoder.encode(images)[side_by_side.LAYER])

        runs.append(run if encoder.weights else None)
    measured: list[list[float]] = [[] for _ in opened]
    with counting.counted(rounds, 0, "timing", "rounds") as bar:
        for _ in range(rounds):
            for run, values in zip(runs, measured, strict=True):
                if run is not None:
                    rate = benchmark.runs_per_second(run, 1)
                    values.append(side_by_side.BATCH * rate)
            bar.add(1)
    return [
        {
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
        }
        if values
        else None
        for values in measured
    ]


def _about(sets, images, query, index):
    """The images, for compare.json."""
    bank, queries = index
    return {
        "bank": paths.shown(images),
        "query": paths.shown(query) if query else "",
        "one_set": sets.one,
        "bank_images": len(bank),
        "queries": len(queries),
        "classes": sets.classes,
        "unreadable": len(sets.query) - len(queries),
        "bank_unreadable": len(sets.bank) - len(bank),
        "no_accuracy": sets.why,
    }


def _about_settings(settings, why_no_probe):
    """The settings, for compare.json."""
    return {
        "k": settings.k,
        "temperature": settings.temperature,
        "probe": settings.probe,
        "no_probe": why_no_probe,
        "batch": side_by_side.BATCH,
    }


def _entry(name, label, encoder):
    """What is known of an encoder before it is measured, for the JSON."""
    return {
        "name": label,
        "given": paths.shown(name.text),
        "kind": name.kind,
        "title": paths.shown(encoder.title),
        "identity": encoder.identity,
        "image_size": encoder.image_size,
        "views": embeddings.describe_views(encoder),
        "mean": list(encoder.recipe.mean),
        "std": list(encoder.recipe.std),
        "parameters": sum(int(tf.size(x)) for x in encoder.weights),
        "bytes": sum(int(tf.size(x)) * x.dtype.size for x in encoder.weights),
    }


def _accuracies(outcome):
    """The accuracies of an encoder with their intervals, for the JSON."""
    entry = {}
    for measure in encoder_page.MEASURES:
        right = getattr(outcome, measure)
        if right is not None:
            low, high = accuracy.wilson(int(right.sum()), len(right))
            top1 = float(right.mean())
            entry[measure] = {"top1": top1, "low": low, "high": high}
    return entry


@counting.timed("comparing neighbours")
def _agreement(outcomes, others):
    """Shares of common neighbours of each pair of encoders, for the JSON."""
    count = len(outcomes)
    shares = np.eye(count)
    spans = []
    for first in range(count):
        for second in range(first + 1, count):
            values = side_by_side.agreement(
                outcomes[first].near, outcomes[second].near
            )
            shares[first, second] = shares[second, first] = values.mean()
            if not first:
                # Around 0 instead of another encoder: the mean's interval.
                spans.append(paired.difference(np.zeros(len(values)), values))
    return {
        "agreement": shares.tolist(),
        "agreement_with_first": [
            {"share": x.mean, "low": x.low, "high": x.high} for x in spans
        ],
        "agreement_by_chance": outcomes[0].near.shape[1] / others,
    }


def _add_differences(entries, outcomes):
    """Adds to each encoder but the first what it has over the first."""
    for entry, outcome in zip(entries[1:], outcomes[1:], strict=True):
        entry["difference"] = {}
        for measure in encoder_page.MEASURES:
            first = getattr(outcomes[0], measure)
            if first is not None:
                change = paired.difference(first, getattr(outcome, measure))
                entry["difference"][measure] = {
                    **change._asdict(),
                    "verdict": change.verdict,
                    "words": change.describe(),
                }


def rows(result):
    """The result as flat rows, one an encoder, as pandas.DataFrame takes them.

    Args:
      result: dict of `compare`.
    """
    table = []
    for number, entry in enumerate(result["encoders"]):
        row = {"encoder": entry["name"]}
        for measure in encoder_page.MEASURES:
            top1, change = entry.get(measure), entry.get("difference", {})
            row[f"{measure}_top1"] = top1 and top1["top1"]
            for name in ("mean", "low", "high", "verdict"):
                row[f"{measure}_difference_{name}"] = change.get(
                    measure, {}
                ).get(name)
        row["agreement_with_first"] = result["agreement"][0][number]
        for name in (
            *("alignment", "uniformity", "effective_rank", "feature_norm"),
            *("dimension", "parameters", "bytes", "image_size", "views"),
        ):
            row[name] = entry[name]
        speed = entry["images_per_second"]
        row["images_per_second"] = speed and speed["median"]
        table.append({**row, "given": entry["given"], "kind": entry["kind"]})
    return table


def _write(result, output):
    """Writes the JSON, the CSV and the page."""
    state_files.write_json(output / "compare.json", result, with_format=True)
    table = rows(result)
    with filesystem.atomic_file(output / "compare.csv") as part:
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    encoder_page.write(result, output / "compare.html")


def _print(result, output):
    """Prints the table, and the verdicts."""
    width = max(len(x["name"]) for x in result["encoders"]) + 4
    table = [
        encoder_page.cells(result, number)
        for number in range(len(result["encoders"]))
    ]
    columns = [x for x in _PRINTED if any(row[x] for row in table)]
    heads = [encoder_page.HEADS[name] for name in columns]
    print(f"\n{'encoder':<{width}}" + "".join(f"{x:>19}" for x in heads))
    for number, entry in enumerate(result["encoders"]):
        line = "".join(f"{table[number][x] or '-':>19}" for x in columns)
        print(f"{number + 1}. {entry['name']:<{width - 3}}{line}")
    chance = 100 * result["agreement_by_chance"]
    print(f"(shared neighbours: {chance:.1f} % by chance)")
    for text in encoder_page.verdicts(result):
        print(text)
    print(f"results in {paths.shown(output)}: compare.html, .json and .csv")
