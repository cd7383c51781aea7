INSERT INTO api_key (id, hash, user_id, name, scopes, providers, org_ids, created_at, expires_at, bootstrap)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (hash) DO NOTHING
