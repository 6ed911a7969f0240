"""Everything about a user as files: one of JSON, and every picture that is still kept.

What stands in the JSON is chosen column by column. Left out is what says nothing about the user: leases, hashes,
the provider's ids and what it cost us.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.jobs import portrait_key
from shared.storage import ObjectNotFound, ObjectStorage

# One statement, so that all of it is of one moment.
_ACCOUNT = text("""
SELECT cuggu_now() AS at, json_build_object(
    'exported_at', cuggu_now(),
    'user', json_build_object('id', u.id, 'email', u.email, 'credits', u.credits, 'created_at', u.created_at),
    'ledger', (SELECT coalesce(json_agg(json_build_object('kind', kind, 'amount', amount,
            'balance_after', balance_after, 'job_id', job_id, 'reference', reference, 'created_at', created_at)
            ORDER BY id), '[]') FROM ledger_entries WHERE user_id = u.id),
    'jobs', (SELECT coalesce(json_agg(json_build_object('id', j.id, 'style', j.style, 'role', j.role,
            'status', j.status, 'error_code', j.error_code, 'idempotency_key', j.idempotency_key,
            'selected_photo_id', j.selected_photo_id, 'created_at', j.created_at, 'completed_at', j.completed_at,
            'portrait_deleted_at', j.portrait_deleted_at, 'photos_deleted_at', j.photos_deleted_at,
            'deleted_at', j.deleted_at,
            'consent', CASE WHEN j.consent_version IS NOT NULL THEN json_build_object('version', j.consent_version,
                'language', j.consent_language, 'at', j.consented_at) END,
            'photos', (SELECT json_agg(json_build_object('id', p.id, 'slot', p.slot, 'status', p.status,
                'width', p.width, 'height', p.height, 'size_bytes', p.size_bytes, 'error_code', p.error_code,
                'stored_at', p.stored_at, 'deleted_at', p.deleted_at) ORDER BY p.slot)
                FROM photos p WHERE p.job_id = j.id),
            'events', (SELECT json_agg(json_build_object('name', e.name, 'photo_id', e.photo_id, 'data', e.data,
                'at', e.at) ORDER BY e.id) FROM job_events e WHERE e.job_id = j.id))
            ORDER BY j.created_at, j.id), '[]') FROM jobs j WHERE j.user_id = u.id),
    'deletions', (SELECT coalesce(json_agg(json_build_object('kind', kind, 'job_id', job_id, 'objects', objects,
            'requested_at', requested_at, 'gone_at', gone_at) ORDER BY requested_at), '[]')
            FROM deletions WHERE user_id = u.id)) AS account
FROM users u WHERE u.id = :user_id
""")
_PORTRAITS = text("""
SELECT id, portrait_id, created_at FROM jobs
WHERE user_id = :user_id AND portrait_deleted_at IS NULL ORDER BY created_at, id
""")
_PHOTOS = text("""
SELECT p.job_id, p.slot, p.object_key, p.stored_at FROM photos p JOIN jobs j ON j.id = p.job_id
WHERE j.user_id = :user_id AND p.object_key IS NOT NULL ORDER BY j.created_at, j.id, p.slot
""")


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    at: datetime
    object_key: str


@dataclass(frozen=True, slots=True)
class Account:
    at: datetime
    about: dict[str, Any]
    pictures: list[Picture]


def read_account(session: Session, user_id: UUID) -> Account:
    """What there is to know, and where the pictures lie."""
    row = session.execute(_ACCOUNT, {"user_id": user_id}).one()
    portraits = [
        Picture(f"{job_id}/portrait.jpg", created_at, portrait_key(portrait_id))
        for job_id, portrait_id, created_at in session.execute(_PORTRAITS, {"user_id": user_id})
    ]
    photos = [
        Picture(f"{job_id}/photo-{slot + 1}.jpg", stored_at, object_key)
        for job_id, slot, object_key, stored_at in session.execute(_PHOTOS, {"user_id": user_id})
    ]
    return Account(row.at, row.account, [*portraits, *photos])


def export_files(storage: ObjectStorage, account: Account) -> Iterator[tuple[str, datetime, bytes]]:
    """Each file as (name, time, body). The first picture is read at once, the others when it is their turn.

    A picture that was deleted in the meantime is left out.

    Raises:
        StorageUnavailable: now, or while it is iterated.
    """
    about = json.dumps(account.about, ensure_ascii=False, indent=2).encode()
    pictures = _pictures(storage, account.pictures)
    first = next(pictures, None)
    return chain([("account.json", account.at, about)], [] if first is None else [first], pictures)


def _pictures(storage: ObjectStorage, pictures: list[Picture]) -> Iterator[tuple[str, datetime, bytes]]:
    for picture in pictures:
        try:
            yield picture.name, picture.at, storage.get(picture.object_key).body
        except ObjectNotFound:
            continue
