"""Starts a run from weights that are there (`model.init`).

The encoder's backbone is taken or the start is refused; its head, and what the
method has behind it, where they fit. What was taken, what was left out and
what is new stands in init.json of the workdir, with shapes.
"""

import collections
import itertools
import re
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import paths, state_files
from moco_tf.data import views
from moco_tf.methods import table
from moco_tf.weights import layouts, origin

FILE = "init.json"
_LINES = 30  # of tensors in a message
_GROUPS = 6  # of what is left out, in the short form
# A rate above this share of a recipe's is one for random weights, and this
# share of it keeps more of trained ones: published weights ended their schedule
# at a hundredth or less (docs/training.md).
_HIGH, _WARM = 0.3, 0.1
# Attributes of a method that are no weights.
_NO_WEIGHTS = ("optimizer", "step", "step_log", "probe", "query_encoder")
_WORDS = {
    "backbone": "{}",
    "width": "x{:g}",
    "stem": "{} stem",
    "input": "input {}",
    "norm": "{} norm",
}


class Start(NamedTuple):
    """A method's start from weights.

    Attributes:
      origin: Origin.
      taken: list of (part, name, shape), set to the origin's.
      left_out: list of LeftOut.
      new: list of (name, shape), which are as a run without model.init has
        them: random, or zeros.
      equal: dict attribute of the method -> the one that it equals.
      head: str, how it was decided about the head.
      notes: list of str, for the user.
    """

    origin: origin.Origin
    taken: list
    left_out: list
    new: list
    equal: dict
    head: str
    notes: list

    def taken_words(self) -> str:
        """How many tensors of which part are set, and what equals what."""
        counts = collections.Counter(part for part, *_ in self.taken)
        taken = [f"{n} tensors of the {part}" for part, n in counts.items()]
        taken += [f"{a} = {b}" for a, b in self.equal.items()]
        return ", ".join(taken)

    def describe(self) -> str:
        """The short form: counts, a line each."""
        lines = [
            f"starts from {paths.shown(self.origin.text)}: {self.origin.kind}",
            f"  taken    {self.taken_words()}",
            f"  head     {self.head}",
        ]
        groups = collections.Counter(each.group for each in self.left_out)
        if groups:
            rows = [f"{n} of {group}" for group, n in groups.most_common()]
            more = len(rows) - _GROUPS
            rows = rows[:_GROUPS] + (
                [f"{more} more groups"] if more > 0 else []
            )
            lines.append(f"  left out {', '.join(rows)}")
        new = [f"{name} {_shape(shape)}" for name, shape in self.new]
        more = len(new) - _GROUPS
        new = new[:_GROUPS] + ([f"{more} more"] if more > 0 else [])
        lines.append(f"  new      {', '.join(new) or 'nothing'}")
        lines += [f"  note     {note}" for note in self.notes]
        return "\n".join([*lines, f"  listed   with shapes in {FILE}"])

    def save(self, workdir: Any) -> None:
        """Writes init.json: all tensors by their names, with shapes."""
        start = self.origin
        value = {
            "init": start.text,
            "path": start.path,
            "kind": start.kind,
            "about": start.about,
            "digest": start.digest(),
            "head": self.head,
            "notes": self.notes,
            "taken": [
                {"part": part, "name": name, "shape": list(shape)}
                | (
                    {"file": start.spelled[name]}
                    if name in start.spelled
                    else {}
                )
                for part, name, shape in self.taken
            ],
            "equal": self.equal,
            "left_out": [
                {"of": each.group, "name": each.name, "shape": list(each.shape)}
                for each in self.left_out
            ],
            "new": [
                {"name": name, "shape": list(shape)} for name, shape in self.new
            ],
        }
        state_files.write_json(workdir / FILE, value, with_format=True)


def start(
    weights: origin.Origin,
    method: tf.keras.Model,
    config: ml_collections.ConfigDict,
) -> Start:
    """Sets the weights of a method to those that a run starts from.

    The key encoder, where there is one, starts equal to the query encoder.

    Args:
      weights: Origin.
      method: TwoViews, as built for the run; changed in place.
      config: ConfigDict of the run.

    Returns:
      Start.

    Raises:
      ValueError: before anything is set, for weights of another encoder, with
        both sides and a remedy.
    """
    encoder = method.query_encoder
    backbone = origin.named(encoder.backbone)
    tensors = _in_the_names_of(backbone, weights.backbone)
    lines = _problems(tensors, backbone)
    if lines:
        raise ValueError(_refusal(weights, config, type(method), lines))
    taken = {"backbone": (tensors, backbone)}
    left_out = list(weights.left_out)
    head, words = _head(weights, encoder.head, config)
    if head:
        taken["head"] = (weights.head, head)
    elif weights.head:
        left_out += _left_out("the head", weights.head)
    for name, values in weights.parts.items():
        variables = origin.named(getattr(method, name))
        if head and not _problems(values, variables):
            taken[name] = (values, variables)
        else:
            left_out += _left_out(f"the {name}", values)
    notes, rounded = list(weights.notes), 0
    for values, variables in taken.values():
        for name, variable in variables.items():
            single = np.asarray(values[name], np.float32)
            rounded += values[name].dtype == np.float64 and bool(
                (single != values[name]).any()
            )
            variable.assign(single)
    if rounded:
        notes.append(f"rounded from float64 to float32: {rounded} tensors")
    equal = method.start_equal()
    return Start(
        origin=weights,
        taken=[
            (part, name, tuple(variable.shape))
            for part, (_, variables) in taken.items()
            for name, variable in variables.items()
        ],
        left_out=left_out,
        new=_new(method, {*taken, *equal}),
        equal=equal,
        head=words,
        notes=notes + _notes(weights, config),
    )


def _left_out(group, values):
    """LeftOut of the tensors of a part."""
    return [origin.LeftOut(group, n, np.shape(v)) for n, v in values.items()]


def _in_the_names_of(variables, tensors):
    """The tensors by the names of variables that differ in a number alone.

    Keras numbers layers without a name through a process, so the same network
    has "conv2d_7" here and "conv2d_19" there.
    """

    def forms(values):
        return [
            (re.sub(r"_\d+(?=/|$)", "", name), tuple(np.shape(value)))
            for name, value in values.items()
        ]

    if set(variables) != set(tensors) and forms(variables) == forms(tensors):
        return dict(zip(variables, tensors.values(), strict=True))
    return tensors


def _problems(tensors, variables):
    """What is wrong with tensors for variables, a list of lines."""
    expected = {name: tuple(v.shape) for name, v in variables.items()}
    return layouts.problems(tensors, expected)


def _head(weights, model, config):
    """Decides about the head.

    Returns:
      the variables to set, dict by name, or {}; and the reason, in words.

    Raises:
      ValueError: if the head must be taken and does not fit.
    """
    wanted = config.model.init_head
    if wanted == "new":
        return {}, "new, by model.init_head=new"
    variables = origin.named(model)
    lines = _problems(weights.head, variables) if weights.head else []
    if weights.head and not lines:
        return variables, "taken: it is of the same form"
    reason = "there is none"
    if weights.head:
        reason = "it is of another form"
    if wanted == "file":
        listed = "".join(f"\n  {line}" for line in lines[:_LINES])
        raise ValueError(
            "With model.init_head=file the head must be there and fit. "
            f"Received {weights.text!r}, of which {reason}, for a head "
            f"{config.model.head} of {config.model.dim} features.{listed}\n"
            "Pass --config.model.init_head=auto for a new one."
        )
    return {}, f"new: {reason}"


def _refusal(weights, config, method, lines):
    """The message for weights of another encoder."""
    differing = {
        name: value
        for name, value in weights.fields.items()
        if value != config.model[name]
    }
    here = {name: config.model[name] for name in origin.FIELDS}
    remedy = "Give weights of such an encoder, or --config.model.init="
    if "input" in differing and differing["input"] not in method.INPUTS:
        remedy = (
            f"The method {config.method} takes model.input="
            f"{' or '.join(method.INPUTS)} alone. {remedy}"
        )
    elif differing:
        flags = " ".join(
            f"--config.model.{name}={_plain(value)}"
            for name, value in differing.items()
        )
        remedy = f"Pass {flags}, or other weights as --config.model.init=PATH"
    listed = "".join(f"\n  {line}" for line in lines[:_LINES])
    if len(lines) > _LINES:
        listed += f"\n  and {len(lines) - _LINES} more"
    return (
        "model.init must name weights of the encoder that is configured. "
        f"Received {weights.text!r}, {weights.kind}: "
        f"{_words(weights.fields) or 'an encoder of other tensors'}; the "
        f"configuration has {_words(here)}. {remedy}\nTensors that differ, "
        f"{len(lines)}:{listed}"
    )


def _plain(value):
    return f"{value:g}" if isinstance(value, float) else value


def _words(fields):
    return ", ".join(
        words.format(fields[name])
        for name, words in _WORDS.items()
        if name in fields
    )


def _shape(shape):
    return "x".join(map(str, shape)) or "scalar"


def _new(method, known):
    """Name and shape of the variables of a method that nothing has set."""
    variables: list = []
    for attribute, part in vars(method).items():
        if attribute in (*_NO_WEIGHTS, *known) or attribute.startswith("_"):
            continue
        variables += _listed(attribute, part)
    if "head" not in known:
        head = origin.named(method.query_encoder.head)
        variables += [(f"head/{n}", tuple(v.shape)) for n, v in head.items()]
    return variables


def _listed(name, part):
    """Names and shapes of the variables of an attribute."""
    if isinstance(part, tf.Variable):
        return [(name, tuple(part.shape))]
    if isinstance(part, tf.keras.layers.Layer):
        return [
            (f"{name}/{n}", tuple(v.shape))
            for n, v in origin.named(part).items()
        ]
    if isinstance(part, tf.Module):
        return [
            (f"{name}/{v.name.partition(':')[0]}", tuple(v.shape))
            for v in part.variables
        ]
    if isinstance(part, list | tuple):
        rows = (_listed(f"{name}/{n}", each) for n, each in enumerate(part))
        return list(itertools.chain(*rows))
    return []


def _notes(weights, config):
    """What a user should know of weights under this configuration."""
    notes = []
    name = config.data.views
    ours = views.RECIPES[name]
    theirs = weights.recipe or views.RECIPES["v2"]  # ImageNet's
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        known = "were" if weights.recipe else "mostly are"
        notes.append(
            f"images of such weights {known} normalised by mean "
            f"{theirs.mean}, those of views {name} are by {ours.mean}"
        )
    usual, rate = _usual_rate(config), configs.learning_rate(config)
    if usual and rate > _HIGH * usual:
        lower = _WARM * usual * config.optimizer.learning_rate / rate
        notes.append(
            f"the rate {rate:.3g} is one for random weights: it moves trained "
            "ones as far, which images of another kind may need "
            "(docs/small_data.md). Pass --config.optimizer.learning_rate="
            f"{lower:.3g} to keep more of them"
        )
    warmup = config[config.method].get("momentum_warmup_epochs", 0)
    if warmup:
        notes.append(
            "a momentum that rises from 0 is for a key encoder that knows "
            f"nothing yet. Received momentum_warmup_epochs={warmup}. Pass "
            f"--config.{config.method}.momentum_warmup_epochs=0"
        )
    return notes


def _usual_rate(config):
    """The lowest rate that a recipe of the method has for so large a batch.

    Returns:
      float; 0.0 where no recipe has the optimiser.
    """
    batch, rates = config.train.batch_size, []
    for name in table.METHODS[config.method].configs:
        recipe = configs.load(name)
        if recipe.optimizer.name == config.optimizer.name:
            per_image = configs.learning_rate(recipe) / recipe.train.batch_size
            rates.append(per_image * batch)
    return min(rates, default=0.0)
