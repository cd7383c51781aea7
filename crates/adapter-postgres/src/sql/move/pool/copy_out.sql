COPY (SELECT p.* FROM pool AS p JOIN touched_pool AS t ON t.payer_is_org = p.payer_is_org AND t.payer_id = p.payer_id AND t.provider = p.provider) TO STDOUT (FORMAT binary)
