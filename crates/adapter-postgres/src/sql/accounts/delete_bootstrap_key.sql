WITH gone AS (
    DELETE FROM api_key WHERE bootstrap AND hash <> $1 RETURNING id
)
UPDATE installation SET revision = revision + 1 WHERE EXISTS (SELECT FROM gone);
