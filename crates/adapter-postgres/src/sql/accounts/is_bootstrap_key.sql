SELECT EXISTS (SELECT FROM api_key WHERE bootstrap AND hash = $1);
