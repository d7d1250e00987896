# Makes variants without fetching a package: an image that serves, and the compression environment.
#
# BASE is what the result is measured on: the image for processors, or that for GPUs.
ARG BASE=ghcr.io/jouleserve/jouleserve:0.1.0-cpu

FROM ${BASE} AS build
# Of this stage alone.
# hadolint ignore=DL3002
USER 0:0
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY requirements/uv.txt requirements/
RUN pip install --no-cache-dir --requirement requirements/uv.txt
ENV UV_CACHE_DIR=/root/.cache/uv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
# As `variants build` makes it, from the lock in the package.
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python -c "import pathlib, serve.variants.workshop as workshop; \
        workshop.python(pathlib.Path('/opt/compression'), print)"

FROM ${BASE}
LABEL org.opencontainers.image.title="Jouleserve compression" \
      org.opencontainers.image.description="Makes, measures and judges variants of a model"
COPY --from=build /opt/compression /opt/compression
COPY --chmod=755 images/compress.sh /opt/jouleserve/bin/jouleserve-compress
USER 1000:1000
ENTRYPOINT ["tini", "--", "jouleserve-compress"]
CMD ["--help"]
