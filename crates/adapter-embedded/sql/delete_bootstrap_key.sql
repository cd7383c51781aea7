DELETE FROM api_key WHERE bootstrap = 1
