# syntax=docker/dockerfile:1
# mien on an NVIDIA GPU, with the default models in it. From the root of the repository:
#
#   docker build -f deploy/cuda.Dockerfile -t mien:cuda .
#   docker run --gpus all mien:cuda doctor
#
# CUDA's and cuDNN's libraries come as wheels with ONNX Runtime, so the base is the plain Python
# image: one with CUDA in it would hold them twice. The driver is the host's.

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=serve,postgres,s3
ENV ORT_DISABLE_TELEMETRY=1
WORKDIR /build
COPY pyproject.toml requirements-dev.txt README.md LICENSE NOTICE ./
COPY src src
# The versions of the lock; developers' tools are in it, and are not asked for.
RUN sed -n '/^[A-Za-z0-9]/s/ *\\$//p' requirements-dev.txt > pins.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/mien \
 && /opt/mien/bin/python -m pip install --disable-pip-version-check --constraint pins.txt ".[${EXTRAS}]"
# In place of the ordinary build, of which one must not be under the other.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/mien/bin/python -m pip uninstall --yes onnxruntime \
 && /opt/mien/bin/python -m pip install --disable-pip-version-check --constraint pins.txt \
      "onnxruntime-gpu[cuda,cudnn]==$(sed -n 's/^onnxruntime==\([^ ;]*\).*/\1/p' pins.txt)"
# `pip check` would miss the package of the name onnxruntime, whose place the other has taken.
RUN /opt/mien/bin/python -c "import onnxruntime; from mien import zoo; [zoo.verify(card) for card in zoo.SHIPPED]"

FROM python:3.11-slim-bookworm
ARG PACKAGES=tini
# The tag pins the release of Debian; a version here would break at its next security fix.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ${PACKAGES} \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 mien \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/mien \
      --shell /usr/sbin/nologin mien \
 && install -d -m 0700 -o mien -g mien /var/lib/mien /var/cache/mien
COPY --from=build /opt/mien /opt/mien
# The root file system may be read-only: what is written goes to /var/lib/mien (kept),
# /var/cache/mien and /tmp (both may vanish). Without a GPU mien says so and ends.
# ONNX Runtime would keep an id of the machine, and it and Ray report to their makers.
ENV PATH=/opt/mien/bin:$PATH \
    HOME=/var/lib/mien \
    MIEN_HOME=/var/lib/mien/home \
    MIEN_PROVIDER=cuda \
    MIEN_SERVE_HOST=0.0.0.0 \
    MIEN_SERVE_PORT=8000 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    NVIDIA_VISIBLE_DEVICES=all \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    XDG_CACHE_HOME=/var/cache/mien
WORKDIR /var/lib/mien
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['MIEN_SERVE_PORT'] + '/healthz', timeout=4)"]
# tini hands signals on, so that `docker stop` is heard, and reaps what lost its parent.
ENTRYPOINT ["tini", "--", "mien"]
CMD ["serve"]
