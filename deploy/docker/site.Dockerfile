# A hospital's site, on CPU. Build from the repository's root:
#   docker build -f deploy/docker/site.Dockerfile -t pmfed-site:0.1.0 .
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pmfed pmfed
COPY client client
COPY server server
COPY simulations simulations
# torch first and pinned, from its own index of CPU builds; nothing of pip stays in the final stage.
RUN python -m venv /opt/pmfed \
    && /opt/pmfed/bin/pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /opt/pmfed/bin/pip install --no-cache-dir -c constraints.txt '.[hospital]' \
    && /opt/pmfed/bin/pip uninstall --yes pip

FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="pmfed site" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --home-dir /site --shell /usr/sbin/nologin pmfed
COPY --from=build /opt/pmfed /opt/pmfed
ENV PATH=/opt/pmfed/bin:$PATH PYTHONDONTWRITEBYTECODE=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
USER 10001
WORKDIR /site
VOLUME /site
# The folder that 'pmfed site init' made is mounted on /site; the data lies in it or is mounted read-only beside it.
ENTRYPOINT ["pmfed"]
CMD ["site", "start", "/site"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s CMD ["python", "-m", "pmfed.processes", "check", "/site"]
