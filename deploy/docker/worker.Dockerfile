# The worker with libtorch: `--target cpu` (about 0.6 GB) or `--target cuda` (about 4 GB, wants the NVIDIA container
# toolkit and a driver for CUDA 13 on the host). Built from the checkout's root:
#
#   docker build -f deploy/docker/worker.Dockerfile --target cpu -t trawl-worker:0.1.0-cpu .
#
# Behind a mirror: `--secret id=pip,src=pip.conf --secret id=cargo,src=config.toml`; neither stays in a layer.
# No model and no secret is in the image: models come from the bucket, URLs from files.

FROM rust:1.94.1-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake nasm pkg-config python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The libtorch that `make setup` puts there, with the same checksums: compiled against it, and run with it on the CPU.
COPY scripts/libtorch.py scripts/wheels.py scripts/wheels.txt scripts/
RUN --mount=type=cache,target=/var/cache/wheels --mount=type=secret,id=pip,target=/etc/pip.conf \
    XDG_CACHE_HOME=/var/cache/wheels python3 scripts/libtorch.py .libtorch \
        "$(grep '^libtorch ' scripts/wheels.txt | sha256sum | cut -d' ' -f1)"
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    --mount=type=secret,id=cargo,target=/usr/local/cargo/config.toml \
    cargo build --locked --release -p trawl-worker --bins \
    && install -D -m 755 -t /out target/release/trawl-worker

# The whole PyTorch wheel and the CUDA libraries that it names, but no Python: in the layout of site-packages, which
# the libraries' own search paths expect.
FROM debian:12.12-slim AS cuda-libraries
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/cuda-wheels.txt /
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --cache-dir /var/cache/pip --require-hashes --no-deps --only-binary=:all: \
        --target /wheels -r /cuda-wheels.txt \
    && mkdir -p /opt/torch/torch \
    && mv /wheels/torch/lib /opt/torch/torch/lib \
    && mv /wheels/nvidia /opt/torch/nvidia \
    && rm -rf /wheels /opt/torch/torch/lib/libtorch_python.so \
    && find /opt/torch -type d \( -name include -o -name bin \) -prune -exec rm -rf {} + \
    && find /opt/torch -name '*.a' -delete

FROM debian:12.12-slim AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 trawl \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trawl \
    && install -d -o trawl -g trawl -m 750 /var/cache/trawl
COPY --chmod=755 deploy/docker/healthy /usr/local/bin/healthy
COPY --from=build /out/trawl-worker /usr/local/bin/trawl-worker
# The only folder that is written to: everything else may be read-only.
ENV TRAWL_CACHE=/var/cache/trawl
VOLUME /var/cache/trawl
USER 10001:10001
EXPOSE 8266
# The first SIGTERM drains, the second gives everything back at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "trawl-worker"]
CMD ["serve", "--http", "0.0.0.0:8266"]

FROM runtime AS cuda
COPY --from=cuda-libraries /opt/torch /opt/torch
ENV LD_LIBRARY_PATH=/opt/torch/torch/lib:/opt/torch/nvidia/cu13/lib:/opt/torch/nvidia/cudnn/lib:/opt/torch/nvidia/nccl/lib:/opt/torch/nvidia/cusparselt/lib:/opt/torch/nvidia/nvshmem/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["serve", "--http", "0.0.0.0:8266", "--device", "cuda:0"]

FROM runtime AS cpu
COPY --from=build /src/.libtorch/lib /opt/torch/torch/lib
ENV LD_LIBRARY_PATH=/opt/torch/torch/lib
CMD ["serve", "--http", "0.0.0.0:8266", "--device", "cpu"]
