# The trainer: docker build -f deploy/trainer.Dockerfile -t finemesh-trainer .
# CPU and GPU alike: the wheels of torch bring CUDA's libraries with them, the driver comes from the node.
FROM python:3.11-slim AS build
WORKDIR /build
COPY services/trainer/pyproject.toml ./
COPY services/trainer/src ./src
RUN python -m venv /opt/trainer && /opt/trainer/bin/pip install --no-cache-dir .

FROM python:3.11-slim
COPY --from=build /opt/trainer /opt/trainer
COPY services/trainer/configs /opt/trainer/configs
# Nothing is fetched while it runs; with a read-only root, /tmp and /data are all that it writes to.
ENV PATH=/opt/trainer/bin:$PATH HOME=/tmp HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Paths in configurations are taken from here: mount the volume with pairs, models and runs.
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["finemesh-trainer"]
