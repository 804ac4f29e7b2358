# What both stages start from; the Python that constraints.txt was resolved for. A release names it by digest:
# --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build

# The package index, when it is not pip's default one.
ARG PIP_INDEX_URL
# The index of torch alone: PyTorch's index of CPU wheels for a CPU image, that of one CUDA release for a GPU image.
# Left out, torch comes from the package index; on x86-64 Linux the usual one holds a CUDA build, some gigabytes larger.
# constraints.txt names torch's release without a build suffix, so every index gives its own build of that release.
ARG TORCH_INDEX_URL

WORKDIR /build
RUN python -m venv /opt/venv
COPY constraints.txt ./
# Torch before everything else: it is most of the download, and this layer outlives changes of the program.
# Without dependencies, so that nothing but torch is taken from its index.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --no-deps --constraint constraints.txt \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --constraint constraints.txt .

FROM ${PYTHON_IMAGE}

ARG REVISION
LABEL org.opencontainers.image.title="scopewatch" \
      org.opencontainers.image.description="Watches what happens inside a language model while it reads prompt/response pairs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

# Some libraries look their user up and fail when there is none.
RUN useradd --uid 65532 --user-group --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin scopewatch
# A C compiler, for GPU images (--build-arg COMPILER=1): Triton builds its launcher with one when a kernel is first compiled.
ARG COMPILER
RUN if [ -n "$COMPILER" ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
COPY --from=build /opt/venv /opt/venv

# HOME is where libraries put caches: with it under /tmp, /tmp is all that has to be writable.
# The addresses are settings and not part of CMD, so that `serve` with other flags still listens outside the container.
# Others reach them, so whoever runs the image says how: with SCOPEWATCH_TLS_CERT and SCOPEWATCH_TLS_KEY, or, where the
# network between is trusted, `docker run --env SCOPEWATCH_INSECURE=true`. Without either it does not start.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SCOPEWATCH_GRPC_ADDRESS=0.0.0.0:50051 \
    SCOPEWATCH_METRICS_ADDRESS=0.0.0.0:9464

EXPOSE 50051 9464
# Numeric: Kubernetes checks runAsNonRoot without looking into the image.
USER 65532:65532
# No HEALTHCHECK: Kubernetes ignores it and probes grpc.health.v1 itself.
ENTRYPOINT ["scopewatch"]
CMD ["serve"]
