UPDATE charge AS c
SET status = n.status, settled = n.settled, refunded = n.refunded, debt = n.debt, from_allowance = n.from_allowance,
    from_purchased = n.from_purchased, period_start = n.period_start, late = n.late, settled_at = n.settled_at,
    cost = n.cost, currency = n.currency
FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::timestamptz[], $10::boolean[], $11::timestamptz[], $12::bigint[], $13::text[])
     AS n (shard, id, status, settled, refunded, debt, from_allowance, from_purchased, period_start, late, settled_at, cost,
           currency)
WHERE c.shard = n.shard AND c.id = n.id;
