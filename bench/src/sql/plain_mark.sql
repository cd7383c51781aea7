UPDATE plain_mark SET last_id = $1;
