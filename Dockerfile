ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/venv && python -m venv /opt/hatch
COPY requirements.lock requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --require-hashes -r requirements.lock \
 && find /opt/venv -type d -name tests -prune -exec rm -r {} + # 80 MB
RUN awk '/^[a-z]/ { ours = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } ours' \
        requirements-dev.lock >hatch.lock \
 && /opt/hatch/bin/pip install --require-hashes -r hatch.lock
COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY producer_sim producer_sim
COPY schemas schemas
COPY training training
RUN /opt/hatch/bin/hatchling build --target wheel --directory /tmp/wheel \
 && pip --python /opt/venv/bin/python install --no-deps /tmp/wheel/*.whl

# Kernels are compiled here for any machine that may run the image, and not at every start. Training
# and check, which score without a broker, call all of them.
ARG NUMBA_CPU_NAME=generic
ENV NUMBA_CPU_NAME=${NUMBA_CPU_NAME} NUMBA_CPU_FEATURES="" NUMBA_CACHE_DIR=/opt/fraudstream/kernels
# A feature set that asks for more of the windows has a kernel of its own.
RUN cd /tmp \
 && for feature_set in arrival-1 arrival-3 arrival-4; do \
        /opt/venv/bin/fraudstream train --from handbook --begin 2018-04-08 --end 2018-04-15 \
            --warm-up 1d --label-delay exactly:1d --feature-set "$feature_set" --out "$feature_set" \
     && FRAUDSTREAM_MODEL__PATH="$feature_set" FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS=localhost \
            /opt/venv/bin/fraudstream check \
     || exit 1; \
    done
# numba reads a cache only where it can write, so the kernels are copied to such a place at start.
RUN mv /opt/venv/bin/fraudstream /opt/fraudstream/ \
 && printf '%s\n' '#!/bin/sh' \
        '[ -d "$NUMBA_CACHE_DIR" ] || cp -R /opt/fraudstream/kernels "$NUMBA_CACHE_DIR"' \
        'exec /opt/fraudstream/fraudstream "$@"' >/opt/venv/bin/fraudstream \
 && chmod +x /opt/venv/bin/fraudstream


FROM ${PYTHON_IMAGE}
ARG NUMBA_CPU_NAME=generic
# /dev/shm can be written with --read-only too.
ENV PATH=/opt/venv/bin:$PATH \
    NUMBA_CPU_NAME=${NUMBA_CPU_NAME} NUMBA_CPU_FEATURES="" NUMBA_CACHE_DIR=/dev/shm/kernels \
    FRAUDSTREAM_CACHE=/var/lib/fraudstream/cache FRAUDSTREAM_HTTP__HOST=0.0.0.0
RUN groupadd --system --gid 10001 fraudstream \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/fraudstream fraudstream \
 && install -d -o fraudstream -g fraudstream /var/lib/fraudstream /var/lib/fraudstream-state
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/fraudstream /opt/fraudstream
USER 10001:10001
WORKDIR /var/lib/fraudstream
EXPOSE 9108
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('FRAUDSTREAM_HTTP__PORT', '9108') + '/livez', timeout=3)"]
ENTRYPOINT ["fraudstream"]
CMD ["run"]
