# One image for every process: its command decides.
#   the code location   dagster code-server start -h 0.0.0.0 -p 3030 -f definitions.py    (the default)
#   a Celery worker     celery -A dagster_celery.app worker -Q dagster -c 1
#   a run's pod         what K8sRunLauncher gives it
# The daemon and the webserver may run from it too. Collections are mounted at /opt/rasteret/collections, the instance's
# settings at /opt/dagster/home/dagster.yaml.
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv && uv venv /opt/venv
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY rasteret_assets rasteret_assets
RUN uv pip install --no-cache --python /opt/venv/bin/python -c requirements.lock ".[postgres,celery,k8s,warp]"

FROM python:3.12-slim
RUN useradd --uid 1000 --create-home dagster \
 && mkdir -p /opt/dagster/home /opt/rasteret/collections /scratch \
 && chown dagster /opt/dagster/home /scratch
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/rasteret
COPY definitions.py ./
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/rasteret PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster/home RASTERET_ASSETS_COLLECTIONS=/opt/rasteret/collections TMPDIR=/scratch
# What a run writes lies on a volume before it is uploaded, not in the layers of the container.
VOLUME /scratch
USER 1000
EXPOSE 3030
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "3030", "-f", "definitions.py"]
