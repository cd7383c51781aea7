-- An id that exists already is left alone, its members included.
WITH created AS (
    INSERT INTO org (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING id
), person AS (
    INSERT INTO app_user (id) SELECT $4::uuid FROM created WHERE $4 IS NOT NULL ON CONFLICT (id) DO NOTHING
), first_admin AS (
    INSERT INTO member (org_id, user_id, role) SELECT id, $4, 'ORG_ADMIN' FROM created WHERE $4 IS NOT NULL
)
UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM created);
