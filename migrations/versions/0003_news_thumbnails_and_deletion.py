"""How long the latest jobs took; thumbnails."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("photos", sa.Column("thumbnail_key", sa.Text(), nullable=True))
    op.create_index(
        "ix_jobs_completed", "jobs", ["style", "completed_at"], postgresql_where=sa.text("status = 'COMPLETED'")
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_completed", table_name="jobs")
    op.drop_column("photos", "thumbnail_key")
