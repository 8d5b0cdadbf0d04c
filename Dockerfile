# syntax=docker/dockerfile:1

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/millrace
WORKDIR /src
# Dependencies in their own layer, which a change of the code does not rebuild.
COPY requirements.lock ./
RUN /opt/millrace/bin/pip install --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY docs docs
COPY migrations migrations
RUN pip wheel --no-deps --wheel-dir /dist . \
    && /opt/millrace/bin/pip install --no-deps /dist/*.whl

FROM python:3.13-slim-trixie
# `make image` gives the version of app/__init__.py.
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Millrace" \
      org.opencontainers.image.description="Kafka's event log over plain HTTP, on SQLite or PostgreSQL." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# Fixed ids, so that the owner of a volume is the same in every image.
RUN groupadd --system --gid 10400 millrace \
    && useradd --system --uid 10400 --gid millrace --home-dir /data --shell /usr/sbin/nologin millrace \
    && install --directory --owner=millrace --group=millrace --mode=0750 /data
COPY --from=build /opt/millrace /opt/millrace
ENV PATH=/opt/millrace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MILLRACE_HOST=0.0.0.0 \
    MILLRACE_DATABASE_URL=sqlite:////data/millrace.db
USER 10400:10400
WORKDIR /data
VOLUME /data
EXPOSE 8400
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["millrace", "health"]
ENTRYPOINT ["millrace"]
CMD ["serve"]
