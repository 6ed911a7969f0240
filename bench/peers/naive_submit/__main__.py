"""`DATABASE_URL=... REDIS_URL=... AZURE_FACE_ENDPOINT=... API_PORT=... python -m bench.peers.naive_submit`

FastAPI's tutorial for files: a `def` route, because everything in it waits. INCR and EXPIRE for the rate limit, as the
pages of Redis show it; Azure's SDK with its defaults; one transaction for charge and job; Celery's `delay` at the end.
`/receive` takes the same form and does nothing, which is what receiving alone costs.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import jwt
import redis
import uvicorn
from azure.ai.vision.face import FaceClient
from azure.ai.vision.face.models import FaceDetectionModel, FaceRecognitionModel
from azure.core.credentials import AzureKeyCredential
from celery import Celery
from fastapi import FastAPI, Form, Header, HTTPException, UploadFile
from PIL import Image, ImageOps
from sqlalchemy import create_engine, make_url, text

engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"), pool_pre_ping=True)
counts = redis.Redis.from_url(os.environ["REDIS_URL"])
faces = FaceClient(os.environ["AZURE_FACE_ENDPOINT"], AzureKeyCredential(os.environ["AZURE_FACE_API_KEY"]))
celery = Celery("naive", broker=os.environ["REDIS_URL"])
folder = Path(os.environ["DATA_DIR"])
app = FastAPI(title="The plan's order")


@celery.task
def generate(job_id: str) -> None:
    """Nobody listens here."""


@app.post("/jobs", status_code=202)
def submit(image: UploadFile, style: Annotated[str, Form()], authorization: Annotated[str, Header()]) -> dict[str, str]:
    token = authorization.removeprefix("Bearer ")
    email = jwt.decode(token, os.environ["JWT_SECRET"], algorithms=["HS256"], audience="cuggu-photos")["email"]
    if counts.incr(f"rate:{email}") == 1:
        counts.expire(f"rate:{email}", 600)
    with engine.connect() as connection:
        user = connection.execute(text("SELECT id, credits FROM users WHERE email = :email"), {"email": email}).one()
    if user.credits < 1:
        raise HTTPException(402)
    picture = ImageOps.exif_transpose(Image.open(BytesIO(image.file.read()))).convert("RGB")
    picture.thumbnail((2048, 2048))
    out = BytesIO()
    picture.save(out, "JPEG", quality=92)
    found = faces.detect(
        out.getvalue(),
        detection_model=FaceDetectionModel.DETECTION03,
        recognition_model=FaceRecognitionModel.RECOGNITION04,
        return_face_id=False,
    )
    if len(found) != 1:
        raise HTTPException(400)
    job_id = uuid4()
    with (folder / f"{job_id}.jpg").open("wb") as file:
        file.write(out.getvalue())
        os.fsync(file.fileno())
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET credits = credits - 1 WHERE id = :id"), {"id": user.id})
        connection.execute(
            text(
                "INSERT INTO jobs (id, user_id, style, portrait_id, request_fingerprint, deadline_at) "
                "VALUES (:id, :user_id, :style, :id, '', now() + interval '8 minutes')"
            ),
            {"id": job_id, "user_id": user.id, "style": style},
        )
        connection.execute(
            text("INSERT INTO photos (id, job_id, slot) SELECT gen_random_uuid(), :id, generate_series(0, 3)"),
            {"id": job_id},
        )
    generate.delay(str(job_id))
    return {"id": str(job_id)}


@app.post("/receive", status_code=202)
async def receive(image: UploadFile, style: Annotated[str, Form()]) -> dict[str, int]:
    return {"bytes": len(await image.read()), "style": len(style)}


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["API_PORT"]), access_log=False)
