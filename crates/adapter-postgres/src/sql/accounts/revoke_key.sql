WITH gone AS (
    DELETE FROM api_key WHERE id = $2 AND user_id = $1 RETURNING id
), raised AS (
    UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM gone)
)
SELECT EXISTS (SELECT FROM gone);
