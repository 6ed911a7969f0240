"""What the program is told by its environment; the names are those of our own .env.example where it has them."""

import os

DATABASE_URL = os.environ["DATABASE_URL"]
REDIS_URL = os.environ["REDIS_URL"]
REPLICATE_MODEL = os.environ.get("REPLICATE_MODEL", "black-forest-labs/flux-2-pro")
S3_BUCKET_NAME = os.environ["S3_BUCKET_NAME"]
S3_ENDPOINT_URL = os.environ.get("S3_ENDPOINT_URL")
AWS_REGION = os.environ.get("AWS_REGION", "ap-northeast-2")
API_HOST = os.environ.get("API_HOST", "127.0.0.1")
API_PORT = int(os.environ.get("API_PORT", "8000"))
SIGNUP_CREDITS = int(os.environ.get("SIGNUP_CREDITS", "2"))

# Unset, Celery and kombu decide: one process per core, an hour.
WORKER_CONCURRENCY = int(os.environ["WORKER_CONCURRENCY"]) if "WORKER_CONCURRENCY" in os.environ else None
VISIBILITY_TIMEOUT_SECONDS = int(os.environ.get("VISIBILITY_TIMEOUT_SECONDS", "3600"))
TASK_MAX_RETRIES = int(os.environ.get("TASK_MAX_RETRIES", "5"))
TASK_SECONDS = int(os.environ.get("TASK_SECONDS", "600"))
