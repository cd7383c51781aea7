WITH found AS (
    SELECT id FROM org WHERE id = $1
), person AS (
    INSERT INTO app_user (id) SELECT $2::uuid FROM found ON CONFLICT (id) DO NOTHING
), put AS (
    INSERT INTO member (org_id, user_id, role) SELECT id, $2, $3 FROM found
    ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role
    RETURNING org_id
), raised AS (
    UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM put)
)
SELECT EXISTS (SELECT FROM found);
