"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The one clock of all rows (shared/database.py). STABLE and in SQL, so it is inlined and can use indexes.
    op.execute("CREATE FUNCTION cuggu_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now()'")
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("credits", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.CheckConstraint("credits >= 0", name=op.f("ck_users_credits_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("style", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "QUEUED",
                "PROCESSING",
                "COMPLETED",
                "PARTIAL",
                "FAILED",
                "CANCELED",
                name="jobstatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="QUEUED",
            nullable=False,
        ),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("portrait_id", sa.Uuid(), nullable=False),
        sa.Column("portrait_deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_fingerprint", sa.Text(), nullable=False),
        sa.Column("selected_photo_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status IN ('QUEUED', 'PROCESSING')) = (completed_at IS NULL)",
            name=op.f("ck_jobs_completed_at_when_terminal"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_jobs_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_jobs_user_id_idempotency_key")),
        sa.UniqueConstraint("portrait_id", name=op.f("uq_jobs_portrait_id")),
    )
    op.create_index(
        "ix_jobs_overdue",
        "jobs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('QUEUED', 'PROCESSING')"),
    )
    op.create_index(op.f("ix_jobs_user_id_created_at_id"), "jobs", ["user_id", "created_at", "id"], unique=False)
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "SIGNUP",
                "CHARGE",
                "REFUND",
                "GRANT",
                name="ledgerkind",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("balance_after", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.CheckConstraint(
            "(kind = 'CHARGE' AND amount < 0) OR (kind <> 'CHARGE' AND amount >= 0)",
            name=op.f("ck_ledger_entries_sign"),
        ),
        sa.CheckConstraint(
            "(kind = 'GRANT') = (reference IS NOT NULL)", name=op.f("ck_ledger_entries_reference_when_granted")
        ),
        sa.CheckConstraint(
            "(kind IN ('CHARGE', 'REFUND')) = (job_id IS NOT NULL)",
            name=op.f("ck_ledger_entries_job_when_charged_or_refunded"),
        ),
        sa.CheckConstraint("balance_after >= 0", name=op.f("ck_ledger_entries_balance_not_negative")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_ledger_entries_job_id_jobs")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_ledger_entries_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
        sa.UniqueConstraint("job_id", "kind", name=op.f("uq_ledger_entries_job_id_kind")),
        sa.UniqueConstraint("reference", name=op.f("uq_ledger_entries_reference")),
    )
    op.create_index(op.f("ix_ledger_entries_user_id_id"), "ledger_entries", ["user_id", "id"], unique=False)
    op.create_index(
        "uq_ledger_entries_one_signup",
        "ledger_entries",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'SIGNUP'"),
    )
    op.create_table(
        "photos",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "PENDING",
                "GENERATING",
                "STORED",
                "FAILED",
                "CANCELED",
                name="photostatus",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="PENDING",
            nullable=False,
        ),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("next_check_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("object_key", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'STORED') = (object_key IS NOT NULL AND width IS NOT NULL AND height IS NOT NULL)",
            name=op.f("ck_photos_object_when_stored"),
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'GENERATING') OR lease_token IS NULL", name=op.f("ck_photos_no_lease_when_ended")
        ),
        sa.CheckConstraint("slot BETWEEN 0 AND 3", name=op.f("ck_photos_slot")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_photos_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_photos")),
        sa.UniqueConstraint("job_id", "slot", name=op.f("uq_photos_job_id_slot")),
    )
    op.create_foreign_key("fk_jobs_selected_photo_id_photos", "jobs", "photos", ["selected_photo_id"], ["id"])
    op.create_index(
        "ix_photos_due",
        "photos",
        ["next_check_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('PENDING', 'GENERATING')"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "OPEN",
                "SUCCEEDED",
                "FAILED",
                "CANCELED",
                "LOST",
                name="attemptoutcome",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="OPEN",
            nullable=False,
        ),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("cost", sa.Numeric(precision=10, scale=4), server_default=sa.text("0"), nullable=False),
        sa.Column("currency", sa.Text(), server_default="USD", nullable=False),
        sa.Column("provider_seconds", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(outcome = 'OPEN') = (ended_at IS NULL)", name=op.f("ck_attempts_ended_at_when_ended")),
        sa.ForeignKeyConstraint(["photo_id"], ["photos.id"], name=op.f("fk_attempts_photo_id_photos")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("photo_id", "number", name=op.f("uq_attempts_photo_id_number")),
        sa.UniqueConstraint("provider", "prediction_id", name=op.f("uq_attempts_provider_prediction_id")),
    )
    op.create_index(
        "ix_attempts_unclosed",
        "attempts",
        ["close_due_at"],
        unique=False,
        postgresql_where=sa.text("close_due_at IS NOT NULL"),
    )
    op.create_index(
        "uq_attempts_one_open", "attempts", ["photo_id"], unique=True, postgresql_where=sa.text("outcome = 'OPEN'")
    )
    op.create_table(
        "loose_objects",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("delete_after", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_loose_objects")),
    )
    op.create_index(op.f("ix_loose_objects_delete_after"), "loose_objects", ["delete_after"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("photo_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs")),
        sa.ForeignKeyConstraint(["photo_id"], ["photos.id"], name=op.f("fk_job_events_photo_id_photos")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index(op.f("ix_job_events_job_id_id"), "job_events", ["job_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_job_events_job_id_id"), table_name="job_events")
    op.drop_table("job_events")
    op.drop_index(op.f("ix_loose_objects_delete_after"), table_name="loose_objects")
    op.drop_table("loose_objects")
    op.drop_index("uq_attempts_one_open", table_name="attempts", postgresql_where=sa.text("outcome = 'OPEN'"))
    op.drop_index("ix_attempts_unclosed", table_name="attempts", postgresql_where=sa.text("close_due_at IS NOT NULL"))
    op.drop_table("attempts")
    op.drop_constraint("fk_jobs_selected_photo_id_photos", "jobs", type_="foreignkey")
    op.drop_index("ix_photos_due", table_name="photos", postgresql_where=sa.text("status IN ('PENDING', 'GENERATING')"))
    op.drop_table("photos")
    op.drop_index(
        "uq_ledger_entries_one_signup", table_name="ledger_entries", postgresql_where=sa.text("kind = 'SIGNUP'")
    )
    op.drop_index(op.f("ix_ledger_entries_user_id_id"), table_name="ledger_entries")
    op.drop_table("ledger_entries")
    op.drop_index(op.f("ix_jobs_user_id_created_at_id"), table_name="jobs")
    op.drop_index("ix_jobs_overdue", table_name="jobs", postgresql_where=sa.text("status IN ('QUEUED', 'PROCESSING')"))
    op.drop_table("jobs")
    op.drop_table("users")
    op.execute("DROP FUNCTION cuggu_now()")
