# Four images on one base, each a target: `cpu` and `cuda` serve; `tools` and `tools-cuda` are the same with what only offline
# commands need (calibrate, evaluate, Parquet files, Ray). docs/image.md says how large each is and how to run it.

# What every stage starts from; the Python that constraints.txt was resolved for. A release names it by digest:
# --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build

# The package index, when it is not pip's default one. One that wants a password is better given in a file that no layer and
# no history keeps: --secret id=pip.conf,src=FILE.
ARG PIP_INDEX_URL
# The index of torch alone: PyTorch's index of CPU wheels for `cpu`, that of one CUDA release for `cuda`.
# Left out, torch comes from the package index; on x86-64 Linux the usual one holds a CUDA build, some gigabytes larger.
# constraints.txt names torch's release without a build suffix, so every index gives its own build of that release.
ARG TORCH_INDEX_URL

WORKDIR /build
# A tag can be moved, so a release (--build-arg RELEASE=1) is refused that does not start from a digest.
ARG PYTHON_IMAGE
ARG RELEASE
RUN case "${RELEASE:+release }$PYTHON_IMAGE" in \
      "release "*@sha256:*) ;; \
      "release "*) echo "a release starts from a digest: --build-arg PYTHON_IMAGE=python@sha256:..., not $PYTHON_IMAGE" >&2; exit 1 ;; \
    esac
# pip and the tools that build the program have an environment of their own, which stays behind in this stage. What is shipped
# is installed in parts, /layers/NAME each, so that each becomes a layer of its own: a new release of the program is pulled
# without torch. The path file makes one environment of the parts while they are built; it is not shipped.
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/venv && \
    mkdir -p /layers/libraries/opt && cp -a /opt/venv /layers/libraries/opt && \
    packages="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    for layer in libraries torch program tools; do echo "/layers/$layer$packages"; done > "$packages/layers.pth"
COPY constraints.txt requirements-image.txt requirements-build.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    /opt/tools/bin/pip --python /opt/venv install --root /layers/libraries \
      --require-hashes --no-deps --requirement requirements-image.txt && \
    /opt/tools/bin/pip install --require-hashes --no-deps --requirement requirements-build.txt
# Torch in a step of its own: each index has another build of it, so constraints.txt pins its release and nothing its hash.
# Its second line adds, from the package index, the CUDA libraries that a GPU build pins; a CPU build has none.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    /opt/tools/bin/pip --python /opt/venv install --root /layers/torch --no-deps --constraint constraints.txt \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch && \
    /opt/tools/bin/pip --python /opt/venv install --root /layers/torch --constraint constraints.txt torch
# The program, and the client that it depends on: two distributions of one source tree, which client/ links to.
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY client client
COPY service service
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist ./client . && \
    /opt/tools/bin/pip --python /opt/venv install --root /layers/program --no-deps dist/*.whl && \
    /opt/tools/bin/pip --python /opt/venv check
# What is in the environment, for scanners: CycloneDX, checked against its schema when written.
RUN /opt/tools/bin/cyclonedx-py environment --validate --output-reproducible --pyproject pyproject.toml \
      --output-file sbom.cdx.json /opt/venv

FROM build AS build-tools

COPY requirements-tools.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    /opt/tools/bin/pip --python /opt/venv install --root /layers/tools \
      --require-hashes --no-deps --requirement requirements-tools.txt && \
    /opt/tools/bin/pip --python /opt/venv check
RUN /opt/tools/bin/cyclonedx-py environment --validate --output-reproducible --pyproject pyproject.toml \
      --output-file sbom.cdx.json /opt/venv

FROM ${PYTHON_IMAGE} AS runtime

LABEL org.opencontainers.image.title="scopewatch" \
      org.opencontainers.image.description="Watches what happens inside a language model while it reads prompt/response pairs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# Some libraries look their user up and fail when there is none.
RUN useradd --uid 65532 --user-group --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin scopewatch
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
# The program itself is the first process, and ends on SIGTERM. No HEALTHCHECK: Kubernetes ignores it and probes
# grpc.health.v1 itself.
ENTRYPOINT ["scopewatch"]
CMD ["serve"]

FROM runtime AS cpu

COPY --from=build /layers/torch /
COPY --from=build /layers/libraries /
COPY --from=build /layers/program /
COPY --from=build /build/sbom.cdx.json /usr/share/doc/scopewatch/sbom.cdx.json
RUN python -c 'import sys, torch; sys.exit(torch.version.cuda and "this torch is a CUDA build: --build-arg TORCH_INDEX_URL=... of the CPU wheels")'
ARG REVISION
LABEL org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cuda

USER 0:0
# A C compiler: Triton builds its launcher with one when a kernel is first compiled.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 65532:65532
# For NVIDIA's container runtime: the driver's libraries for computing, of every GPU that the container is given.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /layers/torch /
COPY --from=build /layers/libraries /
COPY --from=build /layers/program /
COPY --from=build /build/sbom.cdx.json /usr/share/doc/scopewatch/sbom.cdx.json
RUN python -c 'import sys, torch; sys.exit(not torch.version.cuda and "this torch is no CUDA build: --build-arg TORCH_INDEX_URL=... of one CUDA release")'
ARG REVISION
LABEL org.opencontainers.image.revision="${REVISION}"

FROM cpu AS tools

COPY --from=build-tools /layers/tools /
COPY --from=build-tools /build/sbom.cdx.json /usr/share/doc/scopewatch/sbom.cdx.json

FROM cuda AS tools-cuda

COPY --from=build-tools /layers/tools /
COPY --from=build-tools /build/sbom.cdx.json /usr/share/doc/scopewatch/sbom.cdx.json

# What a build without --target makes.
FROM cpu
