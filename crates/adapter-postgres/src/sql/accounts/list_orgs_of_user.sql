SELECT o.id, o.name, o.created_at
FROM member AS m JOIN org AS o ON o.id = m.org_id
WHERE m.user_id = $1 AND m.org_id > $2
ORDER BY m.org_id
LIMIT $3;
