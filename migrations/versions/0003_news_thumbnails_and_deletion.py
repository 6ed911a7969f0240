"""How long the latest jobs took, thumbnails, and jobs that their users deleted."""

import sqlalchemy as sa
from alembic import op

from migrations.beside_work import add_check, create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STORED_BEFORE = "(status = 'STORED') = (object_key IS NOT NULL AND width IS NOT NULL AND height IS NOT NULL)"
STORED = (
    "(status = 'STORED') = (width IS NOT NULL AND height IS NOT NULL "
    "AND (object_key IS NOT NULL OR deleted_at IS NOT NULL))"
)


def upgrade() -> None:
    create_index("ix_jobs_completed", "jobs", ["style", "completed_at"], where="status = 'COMPLETED'")
    op.add_column("photos", sa.Column("thumbnail_key", sa.Text(), nullable=True), if_not_exists=True)
    op.add_column("photos", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True), if_not_exists=True)
    op.add_column("jobs", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True), if_not_exists=True)
    add_check("ck_photos_object_when_stored", "photos", STORED)
    add_check(
        "ck_photos_no_object_when_deleted",
        "photos",
        "deleted_at IS NULL OR (object_key IS NULL AND thumbnail_key IS NULL)",
    )
    add_check(
        "ck_jobs_nothing_left_when_deleted",
        "jobs",
        "deleted_at IS NULL OR (completed_at IS NOT NULL AND portrait_deleted_at IS NOT NULL)",
    )


def downgrade() -> None:
    # Deleted photos are stored ones without an object, which the tables before did not know.
    op.execute("UPDATE photos SET width = NULL, height = NULL, status = 'CANCELED' WHERE deleted_at IS NOT NULL")
    op.drop_constraint(op.f("ck_jobs_nothing_left_when_deleted"), "jobs")
    op.drop_constraint(op.f("ck_photos_no_object_when_deleted"), "photos")
    op.drop_constraint(op.f("ck_photos_object_when_stored"), "photos")
    op.create_check_constraint(op.f("ck_photos_object_when_stored"), "photos", STORED_BEFORE)
    op.drop_column("jobs", "deleted_at")
    op.drop_column("photos", "deleted_at")
    op.drop_column("photos", "thumbnail_key")
    op.drop_index("ix_jobs_completed", table_name="jobs")
