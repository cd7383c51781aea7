SELECT revision FROM installation FOR UPDATE;
