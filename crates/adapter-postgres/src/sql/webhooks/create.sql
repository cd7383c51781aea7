-- Two at the same moment may both be let in: the bound keeps the number sensible, it is no promise.
INSERT INTO webhook (id, payer_is_org, payer_id, url, secret, created_at)
SELECT $1, $2, $3, $4, $5, $6
WHERE (SELECT count(*) FROM webhook WHERE payer_id = $3 AND payer_is_org = $2) < $7;
