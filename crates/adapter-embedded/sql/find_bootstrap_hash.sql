SELECT hash FROM api_key WHERE bootstrap = 1
