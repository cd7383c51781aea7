COPY (SELECT s.* FROM saga AS s JOIN touched_saga AS t ON t.shard = s.shard AND t.id = s.id) TO STDOUT (FORMAT binary)
