"""Staff, what they did, service tokens, pauses; and indexes for what is counted by the day."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.beside_work import create_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("style", sa.Text(), nullable=True), if_not_exists=True)
    # No figure looks back further.
    op.execute(
        "UPDATE attempts SET style = jobs.style FROM photos JOIN jobs ON jobs.id = photos.job_id "
        "WHERE photos.id = attempts.photo_id AND attempts.ended_at > cuggu_now() - interval '32 days'"
    )
    create_index("ix_attempts_ended", "attempts", ["ended_at"], include=["cost", "outcome", "model", "style"])
    create_index(
        "ix_jobs_ended", "jobs", ["completed_at"], include=["style", "status"], where="completed_at IS NOT NULL"
    )
    create_index("ix_ledger_entries_created_at_id", "ledger_entries", ["created_at", "id"])
    # For addresses that begin with some letters, whatever the database's collation.
    create_index("ix_users_email_prefix", "users", ["email"], ops={"email": "text_pattern_ops"})
    op.create_table(
        "staff_members",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_staff_members_user_id_users")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_staff_members")),
    )
    op.create_table(
        "service_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("scope IN ('grants')", name=op.f("ck_service_tokens_scope")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_service_tokens_token_sha256")),
    )
    op.create_index(
        "uq_service_tokens_name",
        "service_tokens",
        ["name"],
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "staff_actions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column(
            "actor_kind",
            sa.Enum(
                "STAFF",
                "SERVICE",
                "COMMAND",
                name="actorkind",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("actor_user_id", sa.Uuid(), nullable=True),
        sa.Column("service_token_id", sa.Uuid(), nullable=True),
        sa.Column("actor_name", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.CheckConstraint(
            "(actor_kind = 'STAFF') = (actor_user_id IS NOT NULL) AND "
            "(actor_kind = 'SERVICE') = (service_token_id IS NOT NULL) AND "
            "(actor_kind = 'COMMAND') = (actor_name IS NOT NULL)",
            name=op.f("ck_staff_actions_one_actor"),
        ),
        sa.ForeignKeyConstraint(["actor_user_id"], ["users.id"], name=op.f("fk_staff_actions_actor_user_id_users")),
        sa.ForeignKeyConstraint(
            ["service_token_id"], ["service_tokens.id"], name=op.f("fk_staff_actions_service_token_id_service_tokens")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_staff_actions_user_id_users")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_staff_actions_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_staff_actions")),
    )
    op.create_index(op.f("ix_staff_actions_user_id_id"), "staff_actions", ["user_id", "id"])
    op.create_index(op.f("ix_staff_actions_job_id_id"), "staff_actions", ["job_id", "id"])
    op.execute(
        "CREATE FUNCTION cuggu_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION '% is added to and never changed', TG_TABLE_NAME; END$$"
    )
    op.execute(
        "CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE ON staff_actions "
        "FOR EACH ROW EXECUTE FUNCTION cuggu_refuse_change()"
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("cuggu_now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pauses")),
    )
    op.create_index(
        "uq_pauses_one_open",
        "pauses",
        [sa.text("(ended_at IS NULL)")],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_users_email_prefix", table_name="users")
    op.drop_index(op.f("ix_ledger_entries_created_at_id"), table_name="ledger_entries")
    op.drop_index("ix_jobs_ended", table_name="jobs")
    op.drop_index("ix_attempts_ended", table_name="attempts")
    op.drop_column("attempts", "style")
    op.drop_table("pauses")
    op.drop_table("staff_actions")
    op.execute("DROP FUNCTION cuggu_refuse_change()")
    op.drop_table("service_tokens")
    op.drop_table("staff_members")
