COPY (SELECT b.* FROM budget AS b JOIN touched_payer AS t ON t.payer_is_org = b.payer_is_org AND t.payer_id = b.payer_id) TO STDOUT (FORMAT binary)
