"""Every field of a configuration once: what it is, and its value by default.

A preset starts from here and writes what differs, by its full name:

    config = configs.base("moco")
    config.model.head = "mlp"

The values of PRETRAIN are those of MoCo v1 on ImageNet (arXiv:1911.05722),
those of METHODS the published ones of each method. No preset reads another.
"""

# Of every pre-training, beside the section of its method.
PRETRAIN = dict(
    seed=0,  # of all random numbers
    method="moco",  # that of the preset, which has its section
    data=dict(
        source="",  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
        views="v1",  # v1, v2, cifar, simclr, byol, swav, dino, cmc or cpc
        strength=1.0,  # of the colour jitter
        image_size=224,  # pixels of a view's side
        small_views=0,  # of multi-crop, beside the two large ones
        small_size=96,  # pixels of their side
        small_scale=(0.05, 0.14),  # shares of the area that one shows
        max_corrupt_fraction=0.01,  # of samples seen; above, the run stops
        threads=0,  # 0 = the cores of the process
        augment_on="host",  # "graph": by TensorFlow; "device": in the step
    ),
    model=dict(
        init="",  # weights to start from: RUN, RUN@best, a file; "" = random
        init_head="auto",  # its head where it fits; "file" or "new": always
        backbone="resnet50",  # by name, ours or keras-cv's
        input="rgb",  # or "lab", "pair": two sensors; "grid": patches
        patch=0,  # pixels, of the input "grid"
        norm="batch",  # "batch", or "layer": of each image
        width=1.0,  # of all channels
        stem="imagenet",  # 7x7 / 2 and max pooling; "cifar": 3x3 / 1
        head="fc",  # fc, mlp, simclr, byol, swav, dino or dino_bn
        hidden=0,  # of the head; 0 = as wide as the features
        dim=128,  # of the head's output
        bn_groups=8,  # of the global batch; 8: 8 GPUs of 32 images each
        sync_bn=False,  # True: of all replicas' images, with bn_groups 1
        recompute=False,  # True: less memory, a slower step
        freeze="",  # of a start by init: stem,stage1 to stage4 stay as they are
    ),
    optimizer=dict(
        name="sgd",  # sgd, lars, lamb, sgdw or adam
        learning_rate=0.03,  # before its scaling
        scaling="none",  # "linear": x batch / 256; "sqrt": x sqrt(batch)
        momentum=0.9,  # of the steps
        weight_decay=1e-4,  # sgd: L2, of all; lars: no biases, BatchNorm
        clip_norm=0.0,  # largest norm of the gradient; 0 = not clipped
    ),
    schedule=dict(
        name="step",  # "step" or "cosine"
        milestones=(120, 160),  # epochs; of the step schedule only
        factor=0.1,  # of the rate at each of them
        warmup_epochs=0,  # in which the rate rises
        unit="epoch",  # "epoch": changes between epochs; "step": at each step
        first_epoch=0,  # 1: epochs count from 1
    ),
    train=dict(
        batch_size=256,  # of all replicas together
        epochs=200,  # passes over all images
        max_steps=0,  # 0 = all; else stops there, on the same schedule
        micro_batches=1,  # of one step; more: less memory
        precision="float32",  # "mixed_bfloat16" is faster
        jit_compile=False,  # True: the encoders under XLA
        tf32=False,  # True: TensorFloat-32 where a GPU has it
    ),
    checkpoint=dict(
        every_steps=1000,  # and at the end of every epoch; 0 = only then
        keep=2,  # newest ones
    ),
    knn=dict(
        bank="",  # labelled source, as folder:/data/imagenet/train; "" = none
        query="",  # labelled source, as folder:/data/imagenet/val
        every_epochs=5,  # and at the end
        k=200,  # neighbours that vote
        temperature=0.1,  # of their votes
        features="backbone",  # or "projection"; decides which is best
        batch_size=256,  # images encoded at once
        baseline=True,  # first also the starting encoder: what has it gained?
        sample=512,  # training images, looked at without a bank; 0 = none
    ),
    probe=dict(
        online=False,  # True: a linear classifier learns beside, by labels
        learning_rate=1.0,  # over the mean squared length of the features
    ),
    log=dict(
        every_steps=50,  # a row of figures
        tensorboard=True,  # False: no files for it
        listeners=(),  # of others: wandb, mlflow or module:function
    ),
)

# A pre-training has the section of its method and no other.
METHODS = dict(
    moco=dict(
        queue_size=65536,  # keys
        momentum=0.999,  # of the key encoder
        temperature=0.07,  # of the logits
        symmetric=False,  # True: each view is query and key once
        mask_same_image=False,  # True for small data: see docs/health.md
        batch_negatives=False,  # True for short runs: fresh keys beside them
        momentum_warmup_epochs=0,  # in which the momentum rises from 0
        fill_queue=False,  # True: with keys of images before the first step
        shuffle="auto",  # auto: address on one host, gather across; or none
    ),
    memory_bank=dict(
        negatives=4096,  # drawn from the bank at each step
        momentum=0.5,  # of an image's feature, once an epoch
        temperature=0.07,  # of the logits
        loss="nce",  # "nce", or "info_nce" as MoCo's
    ),
    end_to_end=dict(
        temperature=0.07,  # of the logits
        shared_encoder=False,  # True: one encoder for both views
        shuffle="auto",  # auto: address on one host, gather across; or none
    ),
    simclr=dict(
        temperature=0.1,  # of the logits
    ),
    byol=dict(
        momentum=0.996,  # of the first step; rises to 1 by a cosine
    ),
    swav=dict(
        prototypes=3000,  # that images are divided among
        temperature=0.1,  # of the logits
        epsilon=0.05,  # entropy of the codes; smaller: sharper
        iterations=3,  # of Sinkhorn-Knopp
        queue_size=0,  # features that help to make codes; 0 = none
        queue_from_epoch=15,  # it helps from then on
        frozen_epochs=1,  # prototypes do not learn in them
    ),
    dino=dict(
        outputs=65536,  # of the head, that images are divided among
        temperature=0.1,  # of the logits
        teacher_temperature=0.04,  # after the warm-up
        first_teacher_temperature=0.04,  # at the first step
        warmup_epochs=0,  # in which the teacher's temperature rises
        momentum=0.996,  # of the first step; rises to 1 by a cosine
        center_momentum=0.9,  # of the mean that outputs are centred by
        frozen_epochs=1,  # the last layer does not learn in them
    ),
    cmc=dict(
        negatives=16384,  # drawn from the other sensor's bank at each step
        momentum=0.5,  # of an image's features, once an epoch
        temperature=0.07,  # of the logits
        loss="nce",  # "nce", or "info_nce" as MoCo's
    ),
    cpc=dict(
        rows=5,  # predicted below a place
        blocks=5,  # of the context
        negatives=4096,  # patches of the global batch
        patch_jitter=0.0,  # of each one's brightness and contrast, as CPC v2
    ),
)

# Of a linear classifier.
LINEAR = dict(
    seed=0,  # of all random numbers
    data=dict(
        train="",  # labelled source; "" = the run's knn.bank
        test="",  # labelled source; "" = the run's knn.query
        crop=0.08,  # smallest share of the image that a random crop takes
        max_corrupt_fraction=0.01,  # of samples seen; above, the run stops
        threads=0,  # 0 = the cores of the process
    ),
    probe=dict(
        way="cached",  # "cached": features once; "published": new crops
        features="backbone",  # "projection": the head's output
        rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),  # cached way
        holdout=0.1,  # of the training images, to choose the rate
        views=0,  # random crops of each image to cache; 0 = the plain view
    ),
    optimizer=dict(
        learning_rate=30.0,  # of the published way
        momentum=0.9,  # of the steps
        weight_decay=0.0,  # L2, of all weights
    ),
    schedule=dict(
        name="step",  # "step" or "cosine"
        milestones=(60, 80),  # epochs; of the step schedule only
        factor=0.1,  # of the step schedule only
        warmup_epochs=0,  # in which the rate rises
        unit="epoch",  # "epoch": changes between epochs; "step": at each step
    ),
    train=dict(
        batch_size=256,  # of all replicas together
        epochs=100,  # passes over all images
    ),
    log=dict(
        every_steps=50,  # a row of figures
    ),
)

# Of a fine-tuning.
FINETUNE = dict(
    seed=0,  # also chooses the labelled images
    data=dict(
        train="",  # labelled source; "" = the run's knn.bank
        test="",  # labelled source; "" = the run's knn.query
        labels=1.0,  # share of the training images, as many of each class
        holdout=0.0,  # of those, for early stopping; 0 = none
        crop=0.08,  # smallest share of the image that a random crop takes
        max_corrupt_fraction=0.01,  # of samples seen; above, the run stops
        threads=0,  # 0 = the cores of the process
    ),
    model=dict(
        init="encoder",  # "random": the same training from scratch
        sync_bn=True,  # statistics of the global batch
        head_bn=True,  # BatchNorm before the classifier
    ),
    augment=dict(
        rand_augment=0.0,  # magnitude in 0..1; 0 = off
        mixup=0.0,  # alpha of the Beta distribution; 0 = off
        cutmix=0.0,  # alpha of the Beta distribution; 0 = off
    ),
    optimizer=dict(
        learning_rate=0.01,  # of the backbone
        head_factor=3.0,  # the head's rate is as many times larger
        momentum=0.9,  # of the steps
        weight_decay=1e-4,  # L2, of all weights
    ),
    schedule=dict(
        name="cosine",  # "cosine" or "step"
        milestones=(30, 40),  # epochs; of the step schedule only
        factor=0.1,  # of the step schedule only
        warmup_epochs=0,  # in which the rate rises
        unit="step",  # "epoch": changes between epochs; "step": at each step
    ),
    train=dict(
        batch_size=64,  # of all replicas together
        epochs=50,  # passes over all images
        precision="run",  # of the pre-training; or float32, mixed_bfloat16
        label_smoothing=0.0,  # share of the other classes; 0 = off
        early_stopping=0,  # epochs with none better; 0 = off
    ),
    log=dict(
        every_steps=50,  # a row of figures
    ),
)
