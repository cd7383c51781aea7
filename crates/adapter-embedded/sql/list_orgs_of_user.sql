SELECT org.id, org.name, org.created_at
FROM member
CROSS JOIN org ON org.id = member.org_id
WHERE member.user_id = ?3 AND member.org_id > coalesce(?1, x'')
ORDER BY member.org_id
LIMIT ?2
