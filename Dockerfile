# docs/install.md has how to build and run it. The base images' names can be set, for registries of your own and for digests.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# First what changes seldom: the packages stay in a layer of their own.
COPY Cargo.toml ./
COPY scripts/install-deps scripts/
RUN scripts/install-deps
COPY . .
# For example "cloud parquet".
ARG FEATURES=
# What `faiss-proxy bench` says it is: .git is not in the context.
ARG FAISS_PROXY_COMMIT=
# A cache is no part of the image, so the program is taken out of it in the same step. FAISS is then built once, and not at every change.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin faiss-proxy --features "${FEATURES}" \
    && strip --strip-debug -o /faiss-proxy target/release/faiss-proxy \
    && scripts/notices "${FEATURES}" >/NOTICES

FROM ${RUN_IMAGE}
# What the program is linked with (ldd), and the certificates of authorities, for backups to an object store.
# hadolint ignore=DL3008 # Debian's archive keeps the newest build of a package alone: a pinned one is gone at the next repair.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 libopenblas0-pthread libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 faiss-proxy \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin faiss-proxy \
    && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /faiss-proxy /usr/local/bin/
COPY --from=build /NOTICES LICENSE /usr/share/doc/faiss-proxy/
# By number, so that Kubernetes can see that it is not root. Nothing but /data is written to: the root can be read-only.
USER 10001:10001
WORKDIR /data
# Inside a container loopback is the container's own. Without keys the server refuses to start.
ENV FAISS_PROXY_LISTEN=0.0.0.0:8000 FAISS_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
# Finishes what it was asked, and writes a checkpoint.
STOPSIGNAL SIGTERM
# It listens when recovery is over: what fails before that does not count.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m --retries=3 CMD ["faiss-proxy", "health"]
ENTRYPOINT ["faiss-proxy"]
CMD ["serve"]
