"""Its three tables. `python -m bench.peers.plain_celery.models` creates them."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, create_engine, func, make_url, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from bench.peers.plain_celery import settings

ENDED = ("COMPLETED", "FAILED")

engine = create_engine(make_url(settings.DATABASE_URL).set(drivername="postgresql+psycopg"), pool_pre_ping=True)
Session = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "peer_users"
    __table_args__ = (CheckConstraint("credits >= 0"),)

    email: Mapped[str] = mapped_column(primary_key=True)
    credits: Mapped[int]


class Job(Base):
    __tablename__ = "peer_jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(ForeignKey("peer_users.email"), index=True)
    style: Mapped[str]
    portrait_key: Mapped[str]
    status: Mapped[str] = mapped_column(default="QUEUED")  # then PROCESSING, then COMPLETED or FAILED
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    photos: Mapped[list["Photo"]] = relationship(order_by="Photo.slot")


class Photo(Base):
    __tablename__ = "peer_photos"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("peer_jobs.id"), primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    object_key: Mapped[str]


def create_tables() -> None:
    Base.metadata.create_all(engine)


def fail(job_id: UUID, error: str) -> None:
    """FAILED, and the credit back, once: a job that has ended already stays as it is."""
    with Session.begin() as session:
        email = session.scalar(
            update(Job)
            .where(Job.id == job_id, Job.status.not_in(ENDED))
            .values(status="FAILED", error=error, ended_at=func.now())
            .returning(Job.email)
        )
        if email is not None:
            session.execute(update(User).where(User.email == email).values(credits=User.credits + 1))


if __name__ == "__main__":
    create_tables()
