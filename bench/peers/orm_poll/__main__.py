"""`DATABASE_URL=... JWT_SECRET=... API_PORT=... python -m bench.peers.orm_poll`, over our own tables.

FastAPI's tutorial: `OAuth2PasswordBearer`, PyJWT, `get_current_user` as a dependency, a session by `yield`, a
`response_model`. SQLAlchemy's pages on asyncio: `expire_on_commit=False`, `selectinload`. FastAPI's page on deployment:
uvicorn, which takes uvloop and httptools where they are installed.
"""

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

engine = create_async_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"), pool_size=10)
Session = async_sessionmaker(engine, expire_on_commit=False)
oauth2_scheme = OAuth2PasswordBearer(tokenUrl="token")
app = FastAPI(title="As tutorials write it")


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]


class Photo(Base):
    __tablename__ = "photos"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    slot: Mapped[int]
    status: Mapped[str]
    width: Mapped[int | None]
    height: Mapped[int | None]


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    status: Mapped[str]
    style: Mapped[str]
    role: Mapped[str | None]
    error_code: Mapped[str | None]
    selected_photo_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    photos: Mapped[list[Photo]] = relationship(order_by=Photo.slot)


class PhotoOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slot: int
    status: str
    width: int | None
    height: int | None


class JobOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    status: str
    style: str
    role: str | None
    error_code: str | None
    selected_photo_id: UUID | None
    created_at: datetime
    completed_at: datetime | None
    photos: list[PhotoOut]


async def get_session() -> AsyncIterator[AsyncSession]:
    async with Session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


async def get_current_user(token: Annotated[str, Depends(oauth2_scheme)], session: SessionDep) -> User:
    try:
        claims = jwt.decode(token, os.environ["JWT_SECRET"], algorithms=["HS256"], audience="cuggu-photos")
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error
    user = await session.scalar(select(User).where(User.email == claims["email"]))
    if user is None:
        raise HTTPException(401)
    return user


@app.get("/jobs/{job_id}", response_model=JobOut)
async def read_job(job_id: UUID, user: Annotated[User, Depends(get_current_user)], session: SessionDep) -> Job:
    job = await session.scalar(select(Job).where(Job.id == job_id).options(selectinload(Job.photos)))
    if job is None or job.user_id != user.id:
        raise HTTPException(404)
    return job


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["API_PORT"]), access_log=False)
