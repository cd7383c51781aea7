SELECT id, user_id, name, scopes, providers, org_ids, created_at, expires_at
FROM api_key
WHERE user_id = ?1
ORDER BY created_at DESC, id DESC
