# A coordinator, with the reverse proxy that is the only door to it. Build from the repository's root:
#   docker build -f deploy/docker/coordinator.Dockerfile -t pmfed-coordinator:0.1.0 .
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pmfed pmfed
COPY client client
COPY server server
COPY simulations simulations
RUN python -m venv /opt/pmfed \
    && /opt/pmfed/bin/pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /opt/pmfed/bin/pip install --no-cache-dir -c constraints.txt . \
    && /opt/pmfed/bin/pip uninstall --yes pip

FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="pmfed coordinator" org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light=1.22.1-* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /hub --shell /usr/sbin/nologin pmfed
COPY --from=build /opt/pmfed /opt/pmfed
ENV PATH=/opt/pmfed/bin:$PATH PYTHONDONTWRITEBYTECODE=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
USER 10001
WORKDIR /hub
VOLUME /hub
EXPOSE 9092
# The folder that 'pmfed coordinator init' made is mounted on /hub. The SuperLink's own port stays inside this container.
ENTRYPOINT ["pmfed"]
CMD ["coordinator", "start", "--coordinator", "/hub"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s CMD ["python", "-m", "pmfed.processes", "check", "/hub"]
