"""Pictures that go after their time, deletions that are recorded, consent, and how far the look over the storage is."""

import sqlalchemy as sa
from alembic import op

from migrations.beside_work import add_check, create_index

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (
        ("users", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True)),
        ("jobs", sa.Column("photos_deleted_at", sa.DateTime(timezone=True), nullable=True)),
        ("jobs", sa.Column("consent_version", sa.Text(), nullable=True)),
        ("jobs", sa.Column("consent_language", sa.Text(), nullable=True)),
        ("jobs", sa.Column("consented_at", sa.DateTime(timezone=True), nullable=True)),
        ("loose_objects", sa.Column("again_after", sa.DateTime(timezone=True), nullable=True)),
        ("loose_objects", sa.Column("deletion_id", sa.Uuid(), nullable=True)),
    ):
        op.add_column(table, column, if_not_exists=True)
    add_check(
        "ck_jobs_consent_whole",
        "jobs",
        "(consent_version IS NULL) = (consented_at IS NULL) AND (consent_version IS NULL) = (consent_language IS NULL)",
    )
    create_index(
        "ix_jobs_portrait_kept",
        "jobs",
        ["completed_at"],
        where="portrait_deleted_at IS NULL AND completed_at IS NOT NULL",
    )
    create_index(
        "ix_jobs_photos_kept",
        "jobs",
        ["completed_at"],
        where="photos_deleted_at IS NULL AND completed_at IS NOT NULL",
    )
    create_index("ix_loose_objects_deletion", "loose_objects", ["deletion_id"], where="deletion_id IS NOT NULL")
    op.create_table(
        "former_addresses",
        sa.Column("address_hash", sa.Text(), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.PrimaryKeyConstraint("address_hash", name=op.f("pk_former_addresses")),
    )
    op.execute(
        "UPDATE jobs SET photos_deleted_at = deleted_at, idempotency_key = NULL, request_fingerprint = '', "
        "portrait_id = gen_random_uuid(), role = NULL, error_detail = NULL WHERE deleted_at IS NOT NULL"
    )
    op.execute("UPDATE photos SET sha256 = NULL, error_detail = NULL WHERE deleted_at IS NOT NULL")
    op.create_table(
        "deletions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("JOB", "ACCOUNT", name="deletionkind", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("objects", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(kind = 'JOB') = (job_id IS NOT NULL)", name=op.f("ck_deletions_job_when_of_a_job")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_deletions_user_id_users")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deletions_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletions")),
    )
    op.create_index(op.f("ix_deletions_user_id"), "deletions", ["user_id"])
    op.create_index("ix_deletions_open", "deletions", ["requested_at"], postgresql_where=sa.text("gone_at IS NULL"))
    op.create_foreign_key(
        op.f("fk_loose_objects_deletion_id_deletions"),
        "loose_objects",
        "deletions",
        ["deletion_id"],
        ["id"],
        postgresql_not_valid=True,
    )
    op.execute("ALTER TABLE loose_objects VALIDATE CONSTRAINT fk_loose_objects_deletion_id_deletions")
    op.create_table(
        "storage_looks",
        sa.Column("id", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("position", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("busy_until", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_storage_looks_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_looks")),
    )


def downgrade() -> None:
    op.drop_table("storage_looks")
    op.drop_index("ix_loose_objects_deletion", table_name="loose_objects")
    op.drop_constraint(op.f("fk_loose_objects_deletion_id_deletions"), "loose_objects", type_="foreignkey")
    op.drop_column("loose_objects", "deletion_id")
    op.drop_column("loose_objects", "again_after")
    op.drop_table("deletions")
    op.drop_index("ix_jobs_photos_kept", table_name="jobs")
    op.drop_index("ix_jobs_portrait_kept", table_name="jobs")
    op.drop_constraint(op.f("ck_jobs_consent_whole"), "jobs")
    op.drop_column("jobs", "consented_at")
    op.drop_column("jobs", "consent_language")
    op.drop_column("jobs", "consent_version")
    op.drop_column("jobs", "photos_deleted_at")
    op.drop_table("former_addresses")
    op.drop_column("users", "deleted_at")
