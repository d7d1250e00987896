# Jouleserve with vLLM for processors: every Ray container of a cluster without GPUs.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY requirements/uv.txt requirements/
RUN pip install --no-cache-dir --requirement requirements/uv.txt
ENV VIRTUAL_ENV=/opt/jouleserve UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
# Before our own code: a change of ours leaves these layers as they are.
COPY pyproject.toml ./
COPY requirements/cpu.txt requirements/overrides-cpu.txt requirements/
# Versions are those of the lock; what only development needs stays out.
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    python -m venv "$VIRTUAL_ENV" \
    && uv pip install --torch-backend cpu --requirements pyproject.toml --extra cpu --extra llamacpp \
        --constraints requirements/cpu.txt --overrides requirements/overrides-cpu.txt
# Nothing may be there that the lock does not name; pip came with the environment.
RUN uv pip freeze > installed.txt \
    && ! grep -v '^pip==' installed.txt | grep -vxF -f requirements/cpu.txt
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    uv pip install --no-deps .

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Jouleserve" \
      org.opencontainers.image.description="Large language models on Ray Serve and vLLM, for processors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# g++: vLLM compiles a kernel for log probabilities, and whole models where `enforce_eager` is off.
# libgomp1, libnuma1: llama.cpp and vLLM are linked with them. wget: KubeRay's probes run it.
# tini: without KubeRay somebody has to reap what engines leave. Versions are those of the release
# of Debian, which keeps none but the newest of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 libnuma1 tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 jouleserve \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /bin/bash jouleserve \
    && install --directory --owner 1000 --group 1000 /var/cache/jouleserve \
    && printf 'PATH=/opt/jouleserve/bin:%s\n' "\$PATH" > /etc/profile.d/jouleserve.sh
COPY --from=build /opt/jouleserve /opt/jouleserve
# What libraries write goes to the cache or to /tmp: the root may be read-only.
ENV PATH=/opt/jouleserve/bin:$PATH \
    HOME=/tmp \
    JOULESERVE_CACHE=/var/cache/jouleserve \
    HF_HOME=/var/cache/jouleserve/hub \
    VLLM_CACHE_ROOT=/var/cache/jouleserve/vllm \
    TRITON_CACHE_DIR=/var/cache/jouleserve/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/jouleserve/inductor \
    XDG_CACHE_HOME=/var/cache/jouleserve/xdg \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /opt/jouleserve
# gRPC, HTTP, Ray's dashboard.
EXPOSE 9000 8000 8265
ENTRYPOINT ["tini", "--"]
CMD ["jouleserve", "--help"]
