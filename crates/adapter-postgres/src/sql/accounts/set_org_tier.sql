WITH put AS (
    UPDATE org SET tier = $2 WHERE id = $1 RETURNING id
), raised AS (
    UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM put)
)
SELECT EXISTS (SELECT FROM put);
