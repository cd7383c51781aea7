UPDATE idempotency AS i SET lease_until = NULL, context = n.context, outcome = n.outcome
FROM unnest($1::uuid[], $2::bytea[], $3::text[]) AS n (name, context, outcome)
WHERE i.name = n.name;
