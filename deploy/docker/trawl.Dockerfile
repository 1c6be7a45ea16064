# `trawl` and `trawl-monitor`, without libtorch: about 150 MB. Built from the checkout's root:
#
#   docker build -f deploy/docker/trawl.Dockerfile -t trawl:0.1.0 .
#   docker run --rm -e TRAWL_AMQP_URL_FILE=... trawl:0.1.0 status JOB
#   docker run --entrypoint /usr/bin/tini trawl:0.1.0 -- trawl-monitor --listen 0.0.0.0:8265
#
# `trawl run` hands over to `trawl-worker`, which is in the other image.

FROM rust:1.94.1-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    --mount=type=secret,id=cargo,target=/usr/local/cargo/config.toml \
    cargo build --locked --release -p trawl-producer -p trawl-monitor --bins \
    && install -D -m 755 -t /out target/release/trawl target/release/trawl-monitor

FROM debian:12.12-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 trawl \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trawl
COPY --chmod=755 deploy/docker/healthy /usr/local/bin/healthy
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
EXPOSE 8265
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "trawl"]
CMD ["--help"]
