SELECT org.id, org.name, org.created_at
FROM member
CROSS JOIN org ON org.id = member.org_id
WHERE member.user_id = ?1 AND member.org_id > coalesce(?2, x'')
ORDER BY member.org_id
LIMIT ?3
