WITH gone AS (
    DELETE FROM member WHERE org_id = $1 AND user_id = $2 RETURNING org_id
), raised AS (
    UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM gone)
)
SELECT EXISTS (SELECT FROM gone);
