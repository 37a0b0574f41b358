# The image of a run, for CPUs or for NVIDIA GPUs:
#
#   docker build --target=cpu -t moco-tf:0.1.0-cpu .
#   docker build --target=gpu -t moco-tf:0.1.0-gpu .
#   docker run --init --gpus=all --shm-size=8g -v DIR:/home/moco \
#       moco-tf:0.1.0-gpu pretrain --config=quickstart --workdir=runs/first
#
# LANE: 2.15 (PYTHON 3.11) or current (PYTHON 3.12 or 3.13), docs/platform.md.
# BASE: any image with that Python, its venv and bash; name it with a digest to
# have the same one again. CUDA comes with the packages of the lock, so no target
# needs an image of CUDA; the host has the driver. --init: process 1 of a
# container cannot be killed by its own watchdog. There is no HEALTHCHECK: the
# watchdog ends a worker that stands still, with a status that says what to do.
#
# tools/image_steps.py runs these steps where there is no Docker.
ARG PYTHON=3.11
ARG BASE=python:${PYTHON}-slim-bookworm

FROM ${BASE} AS packages
ARG LANE=2.15
WORKDIR /src
COPY requirements*.txt ./
COPY launch/setup.sh launch/
# Every package by its hash, as launch/setup.sh installs them.
RUN ["/bin/bash", "-ec", ". launch/setup.sh; lane=$LANE; choose_lane; environment=/opt/moco-tf; python=$environment/bin/python; mkdir -p $environment; install_locked; rm $environment/build.txt"]
COPY . .
RUN /opt/moco-tf/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation --no-cache-dir .

FROM packages AS packages-gpu
RUN ["/bin/bash", "-ec", ". launch/setup.sh; lane=$LANE; choose_lane; /opt/moco-tf/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-cache-dir --require-hashes -r requirements$suffix-gpu.txt"]

FROM ${BASE} AS runtime
RUN useradd --uid 1000 --user-group --create-home moco
# Kernels for GPUs newer than TensorFlow's are compiled once and kept.
ENV PATH=/opt/moco-tf/bin:$PATH PYTHONUNBUFFERED=1 CUDA_CACHE_MAXSIZE=4294967296
USER 1000:1000
WORKDIR /home/moco
ENTRYPOINT ["moco-tf"]
CMD ["--help"]

FROM runtime AS gpu
COPY --from=packages-gpu /opt/moco-tf /opt/moco-tf

FROM runtime AS cpu
COPY --from=packages /opt/moco-tf /opt/moco-tf
