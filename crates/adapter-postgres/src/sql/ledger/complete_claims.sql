UPDATE idempotency AS i SET lease_until = NULL, context = n.context, outcome = n.outcome
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS n (scope, key, context, outcome)
WHERE i.scope = n.scope AND i.key = n.key;
