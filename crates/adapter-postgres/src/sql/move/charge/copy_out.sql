COPY (SELECT c.* FROM charge AS c JOIN touched_charge AS t ON t.shard = c.shard AND t.id = c.id) TO STDOUT (FORMAT binary)
