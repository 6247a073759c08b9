# The worker: no compiler, no pip, not root, nothing written outside /tmp.

FROM python:3.11.15-slim-bookworm AS build
WORKDIR /build
# The environment has no pip of its own; the base image's installs into it.
RUN python -m venv --without-pip /opt/fraudstream
ENV PIP_PYTHON=/opt/fraudstream/bin/python \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/run.txt requirements/
RUN pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY fraudstream/ fraudstream/
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11.15-slim-bookworm
RUN groupadd --gid 10001 fraudstream \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin fraudstream
COPY --from=build /opt/fraudstream /opt/fraudstream
WORKDIR /app
COPY configs/ configs/
COPY models/ models/
ENV PATH=/opt/fraudstream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["fraudstream"]
CMD ["run"]
