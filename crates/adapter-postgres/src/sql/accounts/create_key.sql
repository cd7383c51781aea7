WITH owner AS (
    INSERT INTO app_user (id) SELECT $3::uuid WHERE $3 IS NOT NULL ON CONFLICT (id) DO NOTHING
)
INSERT INTO api_key (hash, id, user_id, name, scopes, providers, org_ids, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (hash) DO NOTHING;
