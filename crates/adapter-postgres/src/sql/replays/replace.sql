UPDATE replay SET version = version + 1, running = $3, document = $4 WHERE id = $1 AND version = $2
