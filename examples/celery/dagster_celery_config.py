"""Settings of the Celery workers: on their PYTHONPATH under this very name, which dagster_celery.app looks for.

Broker and results are the same two addresses that ``dagster.yaml`` gives the launcher.
"""

import os

broker_url = os.environ["CELERY_BROKER_URL"]
result_backend = os.environ["CELERY_RESULT_BACKEND"]

# A run is taken from the queue when it is done, not when it begins: a worker that is busy with one would reserve the
# next as well, beside another worker that has nothing to do.
task_acks_late = True
worker_prefetch_multiplier = 1
# A worker process begins anew from time to time, and gives back the memory it has grown to.
worker_max_tasks_per_child = 20
# Celery would take standard output and error for its own log; the compute logs of the runs would be empty.
worker_redirect_stdouts = False
# Redis hands a run that was not taken from the queue to another worker after this many seconds, and forgets what
# became of one after those: both are longer than any run may take (max_runtime_seconds in dagster.yaml).
broker_transport_options = {"visibility_timeout": 8 * 3600}
result_expires = 7 * 24 * 3600
# At a start the broker may come up later than the worker.
broker_connection_retry_on_startup = True
