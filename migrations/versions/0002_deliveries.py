"""Deliveries of jobs' ends to the site, and indexes for what is counted over the whole history."""

import sqlalchemy as sa
from alembic import op

from migrations.beside_work import create_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_attempts_lost", "attempts", ["ended_at"], where="outcome = 'LOST'")
    create_index("ix_attempts_duplicate", "attempts", ["cost"], where="error_code = 'duplicate'")
    # False for the jobs that there are, and for those of API processes that do not know the column yet.
    op.add_column("jobs", sa.Column("delivery_wanted", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "WAITING",
                "DELIVERED",
                "GIVEN_UP",
                name="deliverystatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="WAITING",
            nullable=False,
        ),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("first_tried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'WAITING') = (next_try_at IS NOT NULL)", name=op.f("ck_deliveries_next_try_at_when_waiting")
        ),
        sa.CheckConstraint("(status = 'WAITING') = (ended_at IS NULL)", name=op.f("ck_deliveries_ended_at_when_ended")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("job_id", name=op.f("uq_deliveries_job_id")),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["next_try_at"], postgresql_where=sa.text("status = 'WAITING'"))
    op.create_index(
        "ix_deliveries_given_up", "deliveries", ["ended_at"], postgresql_where=sa.text("status = 'GIVEN_UP'")
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_duplicate", table_name="attempts")
    op.drop_index("ix_attempts_lost", table_name="attempts")
    op.drop_table("deliveries")
    op.drop_column("jobs", "delivery_wanted")
