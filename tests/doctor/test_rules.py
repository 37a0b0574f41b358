"""The rules of --config=auto, over random facts: what they choose can run."""

import numpy as np
import pytest

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.doctor import auto, recipe, resources, rules, table

GB = 10**9
CASES = 400
PRESETS = ("moco_v1_imagenet", "moco_v2_imagenet", "moco_cifar10", "quickstart")


def forecast_of(facts):
    """A forecast as of the real networks, which need not be built for it."""

    def forecast(config):
        width, of_50 = config.model.width, config.model.backbone == "resnet50"
        image = (90e6 if of_50 else 20e6 * width) * 2
        image *= (config.data.image_size / 224) ** 2
        image *= 8 if config.model.stem == "cifar" else 1
        image /= 1 if config.train.precision == "float32" else 2
        rows = config.train.batch_size // facts.replicas
        method, settings, run = plan.resolve_method(config, facts.images)
        parts = resources.MemoryParts(
            weights=int(450e6 if of_50 else 180e6 * width**2),
            dictionary=method.dictionary_bytes(settings, run, rows),
            activations=round(image * rows / config.train.micro_batches)
            * method.trained_views(settings),
        )
        return resources.needed_of(parts, facts.here, facts.kind)

    return forecast


def random_facts(rng):
    """Folders of 60 to 2,000,000 images, devices of 4 to 640 GB."""
    kind = rng.choice(["CPU", "GPU", "GPU"])
    total = 4 * 160 ** rng.random()
    counts = [r for r in (1, 2, 3, 4, 6, 8) if total / r >= 4]
    replicas = int(rng.choice(counts if kind == "GPU" else [1, 2]))
    pairs = rng.random() < 0.1
    images = round(60 * (2e6 / 60) ** rng.random())
    return rules.Facts(
        images=min(images, 100_000) if pairs else images,
        short_side=rng.choice([None, 20, 32, 48, 100, 371, 3000]),
        pixels=1e5,
        channels=6 if pairs else 3,
        classes=int(rng.choice([0, 10])),
        bank=int(rng.choice([0, 7, 74, 500, 50_000])),
        kind=kind,
        replicas=replicas,
        here=replicas,
        cores=8,
        free=int(total / (replicas if kind == "GPU" else 1) * GB),
        half=rng.choice(["", "mixed_bfloat16", "mixed_float16"]),
        step_seconds=rng.choice([None, 0.01, 1.0, 10.0]),
    )


def complaints(config, facts, rate):
    """What the doctor says of a configuration, but that replicas are many."""
    rows = [*rules._rows(config, facts, rate)]
    crowd = facts.images < 2 * recipe.GROUP * facts.replicas
    return [
        row
        for row in rows
        if row.verdict != table.OK
        and not (row.check == "batch norm" and crowd and not row.overrides)
    ]


@pytest.mark.parametrize("part", range(4))
def test_what_is_chosen_is_valid_fits_and_leaves_the_doctor_content(part):
    rng = np.random.default_rng(part)
    for _ in range(CASES // 4):
        facts = random_facts(rng)
        forecast = forecast_of(facts)
        given = {"data.source": "folder:x"}
        chosen = rules.choose(facts, given, forecast)
        config = chosen.config
        plan.check(config, facts.replicas)
        assert config.train.batch_size <= facts.images, facts
        assert resources.fits(forecast(config), facts.free), facts
        if plan.queues_keys(config):
            queue = config.moco.queue_size
            assert queue % config.train.batch_size == 0, facts
            assert queue <= 65536 and queue <= facts.images, facts
        rate = rules.rate_of(chosen.preset)
        assert complaints(config, facts, rate) == [], facts
        assert rules.settle(config, facts, forecast, rate).changes == {}, facts
        # The same facts, the same choice.
        again = rules.choose(facts, given, forecast).config
        assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "bank, votes", [(0, 200), (7, 1), (74, 7), (500, 50), (2000, 200)]
)
def test_a_tenth_of_the_labelled_images_vote_at_most(bank, votes):
    facts = GPU._replace(bank=bank)
    given = {"data.source": "folder:x"}
    chosen = rules.choose(facts, given, forecast_of(facts))
    assert chosen.config.knn.k == votes
    assert ("knn.k" in chosen.reasons) == (votes != 200)
    typed = rules.choose(facts, given | {"knn.k": "5"}, forecast_of(facts))
    assert typed.config.knn.k == 5


@pytest.mark.parametrize(
    "bank", [{}, {"knn.bank": "folder:b", "knn.query": "folder:q"}]
)
def test_the_encoder_before_training_is_measured_with_labels_or_without(bank):
    facts = rules.Facts(300, 371, 1e5, free=20 * GB, step_seconds=0.1)
    given = {"data.source": "folder:x"} | bank
    chosen = rules.choose(facts, given, forecast_of(facts)).config
    assert chosen.knn.baseline
    assert chosen.knn.bank == bank.get("knn.bank", "")
    # 18 steps an epoch: 9 of these are the quickstart's epoch.
    assert chosen.knn.every_epochs == 9
    assert (
        rules.choose(
            facts, given | {"knn.every_epochs": "2"}, forecast_of(facts)
        ).config.knn.every_epochs
        == 2
    )
    many = facts._replace(images=20_000)
    assert (
        rules.choose(many, given, forecast_of(many)).config.knn.every_epochs
        == 1
    )


@pytest.mark.parametrize("name", PRESETS)
def test_suggestions_applied_as_printed_leave_nothing_to_suggest(name):
    rng = np.random.default_rng(7)
    written = configs.load(name, {"data.source": "folder:x"})
    rate = written.optimizer.learning_rate / written.train.batch_size
    for _ in range(40):
        facts = random_facts(rng)._replace(channels=3, replicas=1, here=1)
        forecast = forecast_of(facts)
        settled = rules.settle(written, facts, forecast, rate)
        typed = {n: str(v) for n, v in settled.changes.items()}
        words = [w.partition("config.")[2] for w in table.flags(typed)]
        typed = dict(word.split("=") for word in words)
        config = configs.load(name, {"data.source": "folder:x"} | typed)
        plan.check(config, 1)
        assert complaints(config, facts, rate) == [], facts
        assert resources.fits(forecast(config), facts.free), facts
        assert rules.settle(config, facts, forecast, rate).changes == {}


GPU = rules.Facts(100_000, 371, 1e5, kind="GPU", free=40 * GB)


def choice(facts=GPU, **given):
    """The Chosen of facts, with fields typed (__ for the dot)."""
    given = {name.replace("__", "."): given[name] for name in given}
    given = {"data.source": "folder:x"} | given
    return rules.choose(facts, given, forecast_of(facts))


def test_what_is_typed_stays_and_the_rest_goes_with_it():
    config = choice(train__batch_size="96", moco__temperature="0.3").config
    assert config.train.batch_size == 96 and config.moco.temperature == 0.3
    assert 96 % config.model.bn_groups == 0
    assert config.moco.queue_size % 96 == 0
    assert config.optimizer.learning_rate == pytest.approx(0.03 * 96 / 256)
    config = choice(moco__queue_size="64").config
    assert config.moco.queue_size == 64 == config.train.batch_size
    config = choice(model__bn_groups="4").config
    assert config.model.bn_groups == 4


def test_a_typed_batch_that_cannot_be_is_refused_with_a_way_that_works():
    facts = GPU._replace(replicas=3, here=3)
    with pytest.raises(ValueError, match="replicas must divide") as refused:
        choice(facts, train__batch_size="64")
    batch = str(refused.value).partition("batch_size=63")[1].rpartition("=")[2]
    assert choice(facts, train__batch_size=batch).config


@pytest.mark.parametrize(
    "facts, preset, fields",
    [
        (GPU, "moco_v2_imagenet", {"data.image_size": 224}),
        (
            GPU._replace(short_side=40),
            "moco_cifar10",
            {"data.image_size": 32, "model.stem": "cifar"},
        ),
        (
            GPU._replace(kind="CPU"),
            "quickstart",
            {"data.image_size": 64, "model.width": 0.25},
        ),
        (GPU._replace(channels=6), "cmc_imagenet", {"model.input": "pair"}),
        (
            GPU._replace(half="mixed_float16", classes=7),
            "moco_v2_imagenet",
            {"train.precision": "mixed_float16", "probe.online": True},
        ),
        (
            GPU._replace(free=6 * GB),
            "moco_v2_imagenet",
            {"train.batch_size": 128, "train.micro_batches": 8},
        ),
    ],
)
def test_the_recipe_goes_with_images_and_devices(facts, preset, fields):
    chosen = choice(facts)
    values = configs.flatten(chosen.config.to_dict())
    assert chosen.preset == preset
    assert {name: values[name] for name in fields} == fields


@pytest.mark.parametrize(
    "images, seconds, epochs",
    [
        (100_000, None, 200),  # 100, but 200 at least
        (20_000, None, 500),  # 10,000,000 seen
        (60, None, 800),
        # 48 h of steps of 1 s, 390 an epoch: 443, of 200 wanted.
        (100_000, 1.0, 200),
        # 4 s: 110.
        (100_000, 4.0, 110),
        (100_000, 1000.0, 2),
    ],
)
def test_time_shortens_a_run_and_nothing_else(images, seconds, epochs):
    facts = GPU._replace(images=images)
    plain = choice(facts).config
    timed = choice(facts._replace(step_seconds=seconds)).config
    assert timed.train.epochs == epochs
    differing = {
        name
        for name, value in configs.flatten(timed.to_dict()).items()
        if configs.flatten(plain.to_dict())[name] != value
    }
    assert differing <= {"train.epochs", "moco.momentum"}


def test_few_images_are_told_to_start_from_weights():
    assert "weights" in " ".join(choice(GPU._replace(images=9999)).remarks)
    assert choice(GPU._replace(images=10_000)).remarks == []
    facts = GPU._replace(images=60, replicas=8, here=8)
    (_, crowd) = choice(facts).remarks
    assert "Use fewer devices, 4 or less." in crowd


def test_the_preset_file_is_the_choice_and_says_why(tmp_path):
    name = "folder:/data/caf\udce9 'a'\n\"b\""
    chosen = rules.choose(GPU, {"data.source": name}, forecast_of(GPU))
    text = auto.preset_text(chosen, GPU._replace(step_seconds=0.25))
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="ascii")
    loaded = configs.load(path)
    assert loaded.to_dict() == chosen.config.to_dict()
    assert "0.25 s a step" in text
    assert "    # 10,000,000 images seen as in the demo" in text


def test_memory_of_a_real_network_is_what_the_rules_ask_for():
    facts = GPU._replace(kind="CPU", free=3 * GB, cores=2)
    forecast = auto.forecast(facts)
    chosen = rules.choose(facts, {"data.source": "folder:x"}, forecast)
    assert resources.fits(forecast(chosen.config), facts.free)
    parts = resources.predict_memory(chosen.config, 1, facts.images)
    parts = resources.on_device(parts, "CPU")
    needed = resources.needed_of(parts, 1, "CPU")
    assert forecast(chosen.config) == needed
