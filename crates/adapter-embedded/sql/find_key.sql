SELECT id, user_id, name, scopes, providers, org_ids, created_at, expires_at FROM api_key WHERE hash = ?1
